"""Velero for the lab: its kinds, and a controller that really copies a cluster's objects to files and back.

The files stand where Velero puts them in a bucket (``<bucket>/backups/<name>/<name>.tar.gz`` and its neighbours), below a folder that
plays the object store. Volumes' contents, hooks and plugins are not there: a claim is backed up as the object that it is.

What Velero does, and in which words: https://velero.io/docs/main/how-velero-works/ and its API types' documentation.

>>> velero = Velero(api, folder)  # doctest: +SKIP
>>> velero.install()  # doctest: +SKIP
>>> velero.start()  # doctest: +SKIP
"""

from opslib.lab.velero.controller import Velero as Velero
