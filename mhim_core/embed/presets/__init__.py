"""Published encoders, a file a publisher: `PRESETS` of each file is what `encoder=` takes. No torch."""
