"""The run store's bookkeeping: an index beside the folders, who works on which run, what went wrong, how far it is.

A store holds `runs/<run_id>/`, which are the truth, and `index.sqlite`, which can be made anew from them at any time.
Leases say which driver cares for a run, so that two of them never plan the same training; the run's folder is locked by the
process that writes there (see `diffmem.folder_lock`), so that nothing is written twice even where a lease was lost.
"""
