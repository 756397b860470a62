"""Where the tasks of a search run: in this process, in processes of this machine, or on a cluster.

Modules, each using only those before it:
    pool: What a search asks of the place where its tasks run, and what it is told.
    lifeline: A process that ends when it is asked to, and when its parent is gone.
    processes: Worker processes of this machine that take one job after the other.
    child: One task in a process of its own, or in several under torchrun, watched from outside.
    work: A task done from where it was taken to.
    task: What the process of one task runs.
    inline: The pool that works in this process.
    local: The pool of processes of this machine, with its cores and GPUs divided among them.
    remote: What a worker of a cluster does with a task.
    config: The choice among these, as typed settings, and the pool that is opened for it.
    interchange: Parsl's process between a study and its workers, made to end with the study.
    parsl_presets: Parsl configurations for SLURM, PBS and Kubernetes, and those that users write.
    parsl_pool: The pool of workers that Parsl starts; imported where it is opened.
"""
