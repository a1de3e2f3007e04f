"""The same weights in another package's model."""

from typing import TYPE_CHECKING

from dnamamba.errors import UsageError
from dnamamba.models.heads import LanguageModel

if TYPE_CHECKING:
    from transformers import MambaForCausalLM


def to_transformers(model: LanguageModel) -> "MambaForCausalLM":
    """Build transformers' model of a model's weights.

    Parameters
    ----------
    model
        One that reads one way. With symmetry "none" logits are the same; hidden states of the
        backbone are whatever the symmetry.

    Returns
    -------
    The model on the CPU, in its training mode; `backbone` gives hidden states alone.

    Raises
    ------
    UsageError
        Where transformers is missing, or has no such model.
    """
    try:
        from transformers import MambaConfig, MambaForCausalLM
    except ImportError as error:
        raise UsageError("transformers is missing: pip install transformers") from error
    config = model.config
    if config.bidirectional:
        raise UsageError("bidirectional: transformers has no Mamba that reads both ways")
    twin = MambaForCausalLM(
        MambaConfig(
            vocab_size=config.vocab_size,
            hidden_size=config.d_model,
            num_hidden_layers=config.n_layer,
            state_size=config.d_state,
            conv_kernel=config.d_conv,
            expand=config.expand,
            time_step_rank=config.rank,
            layer_norm_epsilon=config.norm_eps,
            tie_word_embeddings=config.tie_embeddings,
            use_cache=False,
        )
    )
    twin.load_state_dict({transformers_name(name): w for name, w in model.state_dict().items()})
    return twin


def transformers_name(name: str) -> str:
    """Return what transformers calls a parameter; published checkpoints call it as we do."""
    return name.replace("backbone.embedding.", "backbone.embeddings.")
