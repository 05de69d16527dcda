"""Slices of cards: the node agent, which hands them out, and what a program in a slice can know of it.

In a notebook::

    import tessera_vgpu

    tessera_vgpu.slice()       # what this container has of each card, and uses
    tessera_vgpu.self_test()   # proves that it cannot have more memory, or more time
"""

from tessera_vgpu.inside import SelfTest, Slice, self_test, slice  # noqa: A004 - the word of the field

__all__ = ["SelfTest", "Slice", "self_test", "slice"]
