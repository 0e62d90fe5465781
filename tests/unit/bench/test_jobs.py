"""A job survives the way to a worker."""

import json

from edgeprof.bench.jobs import Item, Job, job_from_json, job_to_json
from edgeprof.bench.rings import ring_slots
from edgeprof.core.canonical import canonical_json
from edgeprof.runtimes.artifact import artifact_spec


def test_a_job_is_the_same_after_json(make_case, protocol) -> None:
    hot, streaming = make_case("gqa"), make_case("swa", cache_state="streaming")
    spec = artifact_spec(hot)
    items = [
        Item(kind="build", spec=spec),
        Item(kind="probe", case=hot, artifact_key=spec.key, null_artifact_key="null"),
        Item(kind="hot", seed=3, case=hot, artifact_key=spec.key),
        Item(kind="ring", seed=4, slots=ring_slots([streaming])),
        Item(kind="roof"),
        Item(kind="trace", seed=5, case=hot, artifact_key=spec.key),
    ]
    job = Job(runtime="torch_eager", n_threads=2, cpus=[0, 3], items=items, protocol=protocol, sentinel=True)
    assert job_from_json(json.loads(canonical_json(job_to_json(job)))) == job


def test_a_job_is_json_without_help(make_case, protocol) -> None:
    item = Item(kind="hot", case=make_case("gqa"), artifact_key="key")
    job = Job(runtime="torch_eager", n_threads=1, cpus=[], items=[item], protocol=protocol)
    text = json.dumps(job_to_json(job), allow_nan=False)
    assert json.loads(text) == job_to_json(job)
