"""The official AutoAttack in torch beside this package's: bridges, replayed chance, gates.

Needs the extra `crosscheck` (torch, pyautoattack); only `gates` does without. Nothing here is used
by the package: tests/crosscheck and two benchmarks import it.
"""
