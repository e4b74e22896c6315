"""Changes to the outside world: planned, shown, approved, executed, verified, recorded; and undone.

A plan (`plans`) is a file that says exactly what will be sent to which system, what the object looks like before and after, how far the
change reaches, and how it is taken back. Its id is a hash of that. `pipeline` executes a plan by its id, if the objects are still as they
were when it was made and an approval that the environment asks for exists. Every step is written to a chained log (`audit`)
before and after it is done, so that a run that was killed can be resumed or undone from it.

Plans are made by functions named after what they do (`workloads.restart`, `nodes.drain`, `backups.snapshot`, `terraform.apply`, ...). A
system that can be changed is a `System` (`systems`), in a module with its name: `kubernetes`, `elasticsearch`, `terraform`.
"""
