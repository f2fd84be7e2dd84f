"""Other tools' bags as sources of bags (`mhim_core.bags.BagSource`), a file a format; a new one is a class here."""

from mhim_core.store.interop.classic import ClassicBags as ClassicBags
from mhim_core.store.interop.classic import Statistics as Statistics
from mhim_core.store.interop.h5 import H5Bags as H5Bags
