"""Everything that wants a GPU, in one command that is through in nine minutes: ``make gpu``.

Each part is a module with a function ``run(record, bench)``, and a line in :data:`benchmarks.gpu.parts.PARTS`. It runs
in a process of its own with a time limit of its own, and adds rows to a JSON file as it goes.
"""
