"""Where the tasks of a search run: in this process, in processes of this machine, or on a cluster."""
