"""Multiple-instance learning: aggregators and Masked Hard Instance Mining. Import from the submodules.

Shape suffixes, everywhere in this package:
    B bags   N instances of one bag   K instances that enter the aggregator   R recycled instances
    F features of a tile (d_in)   D features of an embedded instance   H attention heads   C classes   k global queries
    V validation bags
"""
