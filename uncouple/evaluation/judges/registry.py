"""All kinds of judges. A new one is its own file, and its line here."""

from typing import get_args

from uncouple.evaluation.judges.causal import Causal
from uncouple.evaluation.judges.embedding import Embedding
from uncouple.evaluation.judges.kinds import JudgeKind
from uncouple.evaluation.judges.phrases import Phrases
from uncouple.evaluation.judges.refusal import Refusal
from uncouple.options import by_kind

Judge = Phrases | Embedding | Causal
JUDGES: dict[str, type[JudgeKind]] = by_kind(get_args(Judge))
# And the one that no experiment names, for it has it of itself.
ALL_JUDGES: dict[str, type[JudgeKind]] = JUDGES | by_kind([Refusal])
