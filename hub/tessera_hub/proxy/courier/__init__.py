"""The courier: what takes a run's bytes to and from the service where Proxy and run share no disk, as in a pod.

It runs in the environment's own image, so it is one zip file of the standard library only (:mod:`.archive` writes it), in three
parts that share a folder and nothing else:

* ``prepare`` brings the inputs, claims the run, and ends before any user code starts;
* ``launch`` owns the runner: copies its output, stops and suspends it as ordered;
* ``deliver`` sends log, notebook, files and checkpoint with the run's own token, which user code never sees, and leaves the
  record of the end where the engine keeps it.

Where the framework is MPI, ``launch`` starts the program in the first part only, and ``listen`` in the others, which starts there
what the first part's ``mpirun`` asks for by ``rsh``, its remote shell (:mod:`.mpi`).

The program of a service is started by ``serve`` in place of ``launch``: again and again, as often as the engine starts it.

Where an engine gives a run one container only, ``single`` does all three there, as root, with user code as another user.
"""
