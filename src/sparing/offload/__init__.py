"""Offload: send the evidence that is worth a thin uplink, and answer every request.

What touches HTTP (`server`, `client`) is imported from its own module, because it needs the extra `serve`.
"""

from sparing.offload.account import Answer, summarise
from sparing.offload.edge import Choice, Request, pool, prepare
from sparing.offload.evaluate import Bench, Policy, candidate_schemes, choose, score, try_scheme
from sparing.offload.gate import Gate
from sparing.offload.link import Link
from sparing.offload.policies import POLICIES, select
from sparing.offload.policy_file import read_policy, write_policy
from sparing.offload.schemes import Scheme
from sparing.offload.views import EdgeModel, EdgeOutput, Evidence, Geometry, ServerModel, read_picture

__all__ = [
    "POLICIES",
    "Answer",
    "Bench",
    "Choice",
    "EdgeModel",
    "EdgeOutput",
    "Evidence",
    "Gate",
    "Geometry",
    "Link",
    "Policy",
    "Request",
    "Scheme",
    "ServerModel",
    "candidate_schemes",
    "choose",
    "pool",
    "prepare",
    "read_picture",
    "read_policy",
    "score",
    "select",
    "summarise",
    "try_scheme",
    "write_policy",
]
