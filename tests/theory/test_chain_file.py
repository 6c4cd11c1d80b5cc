"""Gaussian chains as JSON."""

from __future__ import annotations

import json

from undrift.theory.chain_file import FIELDS, chain_from_spec
from undrift.theory.claims import random_chain


def test_a_specification_survives_json() -> None:
    chain = random_chain(9, longest=20)
    tables = {name: getattr(chain, name) for name in FIELDS if name != "var"}
    spec = {name: table.tolist() for name, table in (tables | {"var": chain.noise}).items()}
    again = chain_from_spec(json.loads(json.dumps(spec)))
    assert again.kl.equal(chain.kl) and again.modular_error.equal(chain.modular_error)
