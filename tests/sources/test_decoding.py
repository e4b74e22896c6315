"""Decoders are learnt by one thread at a time: without that, the process crashes."""

from __future__ import annotations

import subprocess
import sys

MANY_THREADS_MEET_NEW_CLASSES = """
import sys, threading
from opslib.sources import objects
from opslib.sources.decoding import decoder
from opslib.sources.kubernetes import Items

sys.setswitchinterval(1e-6)
kinds = [objects.Pod, objects.Workload, objects.Event, objects.Service, objects.Ingress, objects.Node, objects.Claim, objects.Autoscaler]
page = b'{"metadata": {}, "items": [{"metadata": {"name": "one"}, "spec": {}, "status": {}}]}'
together = threading.Barrier(16)
names = []

def work(first):
    together.wait()
    for number in range(len(kinds)):
        kind = kinds[(first + number) % len(kinds)]
        names.append(decoder(Items[kind]).decode(page).items[0].metadata.name)

threads = [threading.Thread(target=work, args=(number,)) for number in range(16)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(len(names), set(names))
"""


def test_many_threads_may_meet_new_classes_at_once() -> None:
    """In a process of its own, since what goes wrong here is a crash."""
    answer = subprocess.run([sys.executable, "-c", MANY_THREADS_MEET_NEW_CLASSES], capture_output=True, text=True, timeout=60, check=False)
    assert (answer.returncode, answer.stdout) == (0, "128 {'one'}\n"), answer.stderr[-2000:]
