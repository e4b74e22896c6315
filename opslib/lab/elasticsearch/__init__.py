"""The embedded lab's Elasticsearch: the part of OpenSearch 2.19's API that the runbook and Kibana's usual pages need.

Other than the real one, a write is seen by searches at once (it need not wait for a refresh), and there is one shard an index.
"""

from opslib.lab.elasticsearch.api import app
from opslib.lab.elasticsearch.cluster import Cluster

__all__ = ["Cluster", "app"]
