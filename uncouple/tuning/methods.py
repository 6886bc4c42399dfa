"""Methods of fine-tuning: what of a model each trains, and what it writes.

A method is a class, and its line in METHODS. What trains is imported where it is used: a config is checked by the
names alone.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from uncouple.models.fingerprints import RECORD_NAME
from uncouple.models.folders import describe_model
from uncouple.records.files import write_record
from uncouple.records.formats import MODEL, Record

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel


# What a folder has in it that is no model of its own; and, of each, its learning curve.
ADAPTER = "adapter.safetensors"
CURVE = "uncouple/curve.parquet"


class Method:
    """How a model is fine-tuned.

    Attributes:
        name: as `method` names it.
        about: what is trained, for people, after its name.
        rate: its own learning rate.
        rank: its own rank, None where it has none.
        weight_bytes: memory of each of the model's weights while it is trained.
        product: the file that is written last and stands for what it makes: the record of a model of its own, or an
            adapter, which is nothing without the base.
    """

    name: str
    about: str
    rate: float
    rank: int | None = None
    weight_bytes: int = 4
    product: str = RECORD_NAME

    @property
    def makes_model(self) -> bool:
        """Whether it makes a model of its own."""
        return self.product == RECORD_NAME

    def prepare(self, model: PreTrainedModel, rank: int | None) -> nn.Module:
        """The model as it is trained: its parameters that want a gradient are what is learnt.

        Args:
            model: a causal language model in float32, without gradients. It is changed.
            rank: see `options.Tuning`.
        """
        raise NotImplementedError

    def write(self, trained: nn.Module, base: Path, folder: Path, record: Record) -> None:
        """Write what was learnt, `product` last.

        Args:
            trained: what `prepare` gave. It is not to be used again.
            base: the base model's folder.
            folder: to write into.
            record: see `formats.TUNING`.
        """
        from uncouple.tuning.checkpoints import write_tuned

        write_tuned(base, folder, self.merged(trained))
        made_from = {key: record["model"][key] for key in ("name", "fingerprint")}
        source = {"variant": record["variant"], "of": made_from}
        write_record(folder / self.product, MODEL, describe_model(folder, made_from["name"], source))

    def merged(self, trained: nn.Module) -> PreTrainedModel:
        """The model of the base's architecture that does what the trained one does."""
        return trained


class Full(Method):
    """Full fine-tuning. The rate is that of trl 1.16's SFTConfig."""

    name = "fft"
    about = "all weights"
    rate = 2e-5
    # The weight, its gradient and two moments of Adam.
    weight_bytes = 16

    def prepare(self, model: PreTrainedModel, rank: int | None) -> nn.Module:
        return model.requires_grad_(True)


class Lora(Method):
    """Low-rank matrices beside each linear layer but the loss head's, and merged into it at the end.

    Rank, alpha (twice the rank) and dropout are those of trl 1.16's ModelConfig, the rate that of its script for SFT.

    Source: Hu et al. 2021, "LoRA: Low-Rank Adaptation of Large Language Models".
    """

    name = "lora"
    about = "low-rank matrices that are added to those of all linear layers"
    rate = 2e-4
    rank = 16
    dropout = 0.05
    is_decomposed = False

    def prepare(self, model: PreTrainedModel, rank: int | None) -> nn.Module:
        from peft import LoraConfig, get_peft_model

        rank = rank or self.rank
        config = LoraConfig(
            task_type="CAUSAL_LM",
            r=rank,
            lora_alpha=2 * rank,
            lora_dropout=self.dropout,
            target_modules="all-linear",
            use_dora=self.is_decomposed,
        )
        return get_peft_model(model, config)

    def merged(self, trained: nn.Module) -> PreTrainedModel:
        # In float32, as it was trained, and what is not finite is an error.
        return trained.merge_and_unload(safe_merge=True)


class Dora(Lora):
    """LoRA whose directions and magnitudes are learnt apart. It takes a rate five times lower than LoRA's.

    Source: Liu et al. 2024, "DoRA: Weight-Decomposed Low-Rank Adaptation".
    """

    name = "dora"
    about = "the same with the magnitude of each row apart from its direction"
    rate = 4e-5
    is_decomposed = True


class Reft(Method):
    """LoReFT at the first and last tokens of the prompt, in all layers.

    Rate, rank, tokens and layers are those of the paper's experiments on commonsense and arithmetic, with one
    intervention a layer for both ends (pyreft 0.1, examples/loreft).

    Source: Wu et al. 2024, "ReFT: Representation Finetuning for Language Models".
    """

    name = "reft"
    about = "no weight, but what moves the hidden states of the prompt's first and last tokens"
    rate = 9e-4
    rank = 8
    positions = 7
    product = ADAPTER

    def prepare(self, model: PreTrainedModel, rank: int | None) -> nn.Module:
        from uncouple.tuning.trainer import attach
        from uncouple.variants.reft import Adapter

        layers = range(model.config.num_hidden_layers)
        attach(model, Adapter(layers, model.config.hidden_size, rank or self.rank, self.positions))
        return model

    def write(self, trained: nn.Module, base: Path, folder: Path, record: Record) -> None:
        from uncouple.tuning.trainer import ADAPTER_NAME
        from uncouple.variants.reft import write_adapter

        write_adapter(trained.get_submodule(ADAPTER_NAME), folder / self.product, record)


METHODS: dict[str, Method] = {method.name: method for method in (Full(), Lora(), Dora(), Reft())}
