"""A backend's answers to the rows of a table that have none yet."""

from collections.abc import Iterator, Set
from typing import Any

from unteach.config.inference import InferConfig
from unteach.distributed.process_context import DistContext
from unteach.inference.backends.base import Job
from unteach.inference.output_columns import build_record
from unteach.inference.planning import Plan


def answer_rows(
    config: InferConfig,
    plan: Plan,
    done: Set[int],
    dist: DistContext,
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Give the number and the record of every row that is not in `done`, as its answer comes."""
    prepared = plan.prepared
    requests = prepared.requests
    session = config.backend.open(
        Job(
            plan.model,
            config.kind,
            config.sampling,
            dist,
            config.modality,
            plan.longest,
        )
    )
    try:
        if config.kind == "generate":
            answers = session.generate(requests, config.sampling, done)
        elif config.kind == "score":
            answers = session.score(requests, done)
        else:
            answers = session.classify(requests, done)
        for number, answer in answers:
            index = requests.find(number)
            num_cut = prepared.num_cut[index]
            yield (
                number,
                build_record(answer, requests[index], num_cut, config, session.labels),
            )
            # Alone, a process may stop between any two rows; several agree at their batches' ends.
            if dist.world_size == 1:
                dist.check_preemption()
    finally:
        session.close()
