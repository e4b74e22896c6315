"""Commands in containers of the lab (``kubectl exec``): a small shell over what the world and the cluster know.

Nothing of the machine that the lab runs on is run or read: a container is a `Box`, and a command a function that is given it
(`system`, `text`, `network`; a new command is a function there and a line in its ``COMMANDS``). `runner.run` runs what a kubelet is
asked for.
"""
