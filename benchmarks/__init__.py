"""Speed, measured: what Leyden adds to a step of a hand-written loop, beside Lightning and ignite.

``hatch run bench``, which is ``python -m benchmarks``, runs everything in one go; ``--help`` lists the rest.
"""
