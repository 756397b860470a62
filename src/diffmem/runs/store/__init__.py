"""The run store's bookkeeping: an index beside the folders, who works on which run, what went wrong, how far it is.

A store holds `runs/<run_id>/`, which are the truth, and `index.sqlite`, which can be made anew from them at any time.
Leases say which driver cares for a run, so that two of them never plan the same training; a lock in the run's folder is
held by the process that writes there, so that nothing is written twice even where a lease was lost.

Modules, each using only those before it:
    processes: Which process left a note, and whether it is gone for certain.
    filesystems: Whether a folder lies on a file system that several machines share.
    lock: The lock of a run's folder, freed by the kernel when its process ends.
    incidents: What was found damaged in a run's folder and made anew.
    status: How far the process in a run's folder has come.
    folders: What the index knows of a run, read from its folder.
    database: SQLite opened with care: patience, damage, versions, full disks.
    leases: The table of who has which run.
    index: The index.
"""
