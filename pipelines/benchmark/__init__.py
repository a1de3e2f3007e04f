"""`dnamamba benchmark`: one file per benchmark, TSV on stdout."""

from dnamamba.pipelines.group import LazyGroup

command = LazyGroup(
    "benchmark",
    package=__name__,
    table={
        "embed": "Embedding a genome, and the share that is not the model.",
        "finetune": "Fine-tuning by method and precision: time, memory, accuracy.",
        "generate": "Making new DNA, beside transformers.",
        "index": "Tokenising a genome, and windows from its store.",
        "labels": "Accuracy by the number of labels, beside k-mers and others.",
        "kernels": "The kernels beside their floors, and other packages'.",
        "probe": "Embeddings of labelled sequences under a linear probe, beside k-mers.",
        "scan": "The selective scan, forward and backward.",
        "score": "Variants a second, beside two whole windows for each.",
        "step": "A whole training step, on any number of GPUs.",
        "variants": "How well scores tell labelled variants apart.",
    },
    help="Measure speed, memory and worth, as TSV.",
)
