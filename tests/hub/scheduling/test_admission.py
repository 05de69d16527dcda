"""What the submit tells of names: nothing of clusters and data sets that are not the tenant's."""

from __future__ import annotations

import pytest
from tests.hub.scheduling.worlds import cluster, node, pool

from tessera_hub.scheduling.admission import Admission
from tessera_hub.schemas.tasks import TaskDraft, TaskKind
from tessera_hub.tasks.submission import SubmissionError

ADMISSION = Admission(
    (
        cluster("open", pool([node()]), datasets={"birds": None, "reds": frozenset({"red"})}),
        cluster(
            "vault", pool([node()]), tenants=frozenset({"red"}), datasets={"secret": None, "both": frozenset({"red", "blue"})}
        ),
    ),
    (),
    {"default": frozenset({"open", "vault"})},
    {},
    {},
)


@pytest.mark.parametrize("name", ["reds", "secret", "both", "nowhere"])
def test_a_data_set_that_is_not_the_tenants_is_as_if_it_were_not_there(name: str) -> None:
    draft = TaskDraft(name="t", kind=TaskKind.SCRIPT, datasets=["birds", name])
    with pytest.raises(SubmissionError) as refused:
        ADMISSION.check_names(draft, lambda _name: True, "blue")
    assert (refused.value.code, refused.value.detail["dataset"]) == ("dataset.unknown", name)
    assert refused.value.detail["datasets"] == ["birds"]


def test_the_tenants_own_are_known() -> None:
    draft = TaskDraft(name="t", kind=TaskKind.SCRIPT, datasets=["birds", "reds", "secret", "both"])
    ADMISSION.check_names(draft, lambda _name: True, "red")
