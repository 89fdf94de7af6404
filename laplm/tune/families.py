"""Which models are trained here; told before torch is loaded."""

from __future__ import annotations

from laplm.errors import InputError
from laplm.model.pretrained_settings import PretrainedModel
from laplm.tune_config import TRAINED_FAMILIES


def check_family(model: PretrainedModel) -> None:
    """Refuse what is not trained here yet.

    Raises:
        InputError: the model is of another family than GPT-2's.
    """
    family = model.checkpoint.config.family
    if family not in TRAINED_FAMILIES:
        raise InputError(
            f"{model.name} is a {family} model, and laplm tune trains GPT-2's family alone so far; "
            "an adapter that PEFT has trained on it runs with `laplm run -m DIRECTORY`"
        )
