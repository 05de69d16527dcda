"""The node agent of Tessera: cards, slices of cards, their limits, and the device plugin that hands them out."""
