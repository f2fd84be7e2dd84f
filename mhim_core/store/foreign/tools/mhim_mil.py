"""MHIM-MIL's published code: `pt_files/<slide>.pt`, a tensor of features, and a table `ID,Label` without header."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mhim_core.store.feature_sets import FeatureSet
from mhim_core.store.foreign.arrays import read_tensor, write_tensor
from mhim_core.store.foreign.feature_format import (
    ExportedSlide,
    FeatureFormat,
    ForeignBag,
    ForeignFile,
    OwnSlide,
    register_feature_format,
    table_of,
)


@register_feature_format("mhim", suffix=".pt", folder="pt_files", reads=True, writes=True, names_encoder=False)
class MhimMil(FeatureFormat):
    """The tensors alone, without coordinates."""

    def read(self, file: ForeignFile) -> ForeignBag:
        return ForeignBag(features=read_tensor(file.data), coords=None, unit=None)

    def write(self, slide: OwnSlide) -> dict[str, bytes]:
        return {f"pt_files/{slide.slide_id}.pt": write_tensor(slide.table.features.astype(np.float32))}

    def tables(self, rows: Sequence[ExportedSlide], feature_set: FeatureSet) -> dict[str, bytes]:
        labelled = [(row.slide_id, row.label) for row in rows if row.label is not None]
        survival = [
            ("", row.slide_id, repr(row.time), int(row.event), f"{row.slide_id}.pt")
            for row in rows
            if row.time is not None and row.event is not None
        ]
        files = {"label.csv": table_of(labelled)} if labelled else {}
        if survival:
            files["survival.csv"] = table_of([("Study", "ID", "Event", "Status", "WSI"), *survival])
        return files
