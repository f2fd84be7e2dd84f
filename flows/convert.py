"""mhim convert checkpoint=theirs.pt out=model.safetensors classes=normal,tumour: converts published checkpoints.

Inputs: a published `.pt`, also of CLAM (SB, MB), which becomes a model file with a card (no code in a pickle is run);
or a model file, or the fit of a run (run= fold= seed= stage=), which becomes a file of another format (format=, by
default a `.pt` with published names). Weights are kept bit for bit. Output: the file at out; its extension determines
the direction. No resolved.yaml is written, since it is a single file that is passed on alone, and a model file's card
holds classes, options and the checkpoint's sha256. Cost: seconds. Exit code: 0, 2 (no published model: names and shapes
are listed), 5 (out holds something else), 6.
"""

import posixpath

from cluster.storage import open_storage, read_bytes
from flows.config.commands import ConvertConfig
from flows.config.words import recipe_values
from flows.engine.result import FlowResult
from flows.runs.folder import Run, maybe_record, read_run
from mhim_core.errors import ConflictError, InputError, IntegrityError, NotFoundError
from mhim_core.fingerprint import sha256
from mhim_core.mil.model_options import MhimOptions, ModelOptions
from mhim_core.storage import Storage
from mhim_core.task import FittedTask, TaskKind
from mhim_core.train.card import ModelCard
from mhim_core.train.plan import Stage
from mhim_core.train.prediction import PredictWith
from mhim_core.train.results import FitResult, read_model, read_result


def run(config: ConvertConfig) -> FlowResult:
    """Raises InputError (2), ConflictError (5), StorageError (6)."""
    config.check_direction()
    source = _read(config)
    data = import_checkpoint(source, config) if config.imports else export_model(source, config)
    folder, name = posixpath.split(config.out)
    target = open_storage(folder or ".")
    if not target.put_if_absent(name, data) and target.get(name) != data:
        raise ConflictError(f"{target.locate(name)} is there already, with another content; choose another out=")
    print(f"{config.checkpoint or config.run} → {target.locate(name)}")
    if config.run and maybe_record(open_storage(config.run)) is not None:  # fits alone are no run
        print(_who_predicts(read_run(config.run)), end="")
    return FlowResult(outputs={"model": target.locate(name)})


def import_checkpoint(data: bytes, config: ConvertConfig) -> bytes:
    """A published `.pt` as the bytes of a model file.

    Options that a checkpoint does not hold are those of the published code (recipe `published-code`); fold and seed are
    0.
    """
    from mhim_core.mil.published_file import load_published
    from mhim_core.train.fit_options import Precision
    from mhim_core.train.model_file import save_model

    options = ModelOptions(embed_activation=config.embed_activation, attention_activation=config.attention_activation)
    published = load_published(data, options)
    if len(config.classes) != published.num_outputs:
        raise InputError(
            f"classes={','.join(config.classes)} are {len(config.classes)}, the checkpoint has {published.num_outputs} "
            "outputs; name each, in the order of the logits"
        )
    mhim = None
    if published.recycle_queries is not None:
        recipe = recipe_values("published-code", published.options.aggregator)
        mhim = MhimOptions(**recipe | {"recycle_queries": published.recycle_queries})
    card = ModelCard(
        stage=Stage.plain if mhim is None else Stage.mhim,
        fold=0,
        seed=0,
        d_in=published.d_in,
        task=FittedTask(kind=TaskKind.classification, classes=config.classes),
        precision=Precision(str(published.dtype).removeprefix("torch.")),
        model=published.options,
        mhim=mhim,
        provenance={"published_checkpoint_sha256": sha256(data)},
    )
    if mhim is not None:
        print("a checkpoint does not say how it was trained: the card has the options of recipe=published-code")
    print(
        f"{published.options.aggregator}, D={published.options.embed_dim}, {published.d_in} features per tile, "
        f"{'no recycle network' if mhim is None else f'{published.recycle_queries} global queries'}"
        f"{'' if published.teacher is None else ', with its teacher'}"
    )
    return save_model(card, published.student, published.teacher)


def export_model(data: bytes, config: ConvertConfig) -> bytes:
    """A model file's model in another format. Raises InputError for another file, or a model the format cannot hold."""
    from mhim_core.mil.checkpoint_format import PublishedModel, checkpoint_format
    from mhim_core.train.model_file import load_model

    try:
        loaded = load_model(data)
    except IntegrityError as error:
        raise InputError(f"{config.checkpoint or config.run}: {error}") from error
    card, student = loaded.card, loaded.student.state_dict()
    model = PublishedModel(
        options=card.model,
        d_in=card.d_in,
        num_outputs=card.task.num_outputs,
        recycle_queries=card.mhim.recycle_queries if card.mhim is not None and card.mhim.recycles else None,
        dtype=student["embed.weight"].dtype,
        student=student,
        teacher=None if loaded.teacher is None else loaded.teacher.state_dict(),
    )
    return checkpoint_format(config.format).write(model)


def _who_predicts(run: Run) -> str:
    """A line on the written file where it is not the student alone that predicts; else empty."""
    if run.method != Stage.mhim:
        return ""
    return {
        PredictWith.student: "",
        PredictWith.teacher: "the run predicts with the teacher, which files of stage=mhim hold beside the student\n",
        PredictWith.plain: "the run predicts with its stage-1 models, the files of stage=plain\n",
        PredictWith.pair: "the run predicts with the pair of both stages' models, and no format holds two: "
        "convert stage=mhim and stage=plain\n",
    }[run.predict_with]


def _read(config: ConvertConfig) -> bytes:
    if config.run:
        storage = open_storage(config.run)
        return read_model(storage, _fit(storage, config))
    try:
        return read_bytes(config.checkpoint)
    except NotFoundError as error:
        raise InputError(f"checkpoint={config.checkpoint} is not there") from error


def _fit(storage: Storage, config: ConvertConfig) -> FitResult:
    """The only finished fit of the run that matches fold=, seed= and stage=."""
    keys = [entry.key for entry in storage.list("fits") if entry.key.endswith("/result.json")]
    results = [read_result(storage, key.removeprefix("fits/").removesuffix("/result.json")) for key in keys]
    chosen = [
        result
        for result in results
        if result is not None
        and config.fold in (None, result.fold)
        and config.seed in (None, result.seed)
        and config.stage in (None, result.stage)
    ]
    if len(chosen) != 1:
        names = ", ".join(result.name for result in chosen[:10]) or "none"
        raise InputError(
            f"run={config.run} has {len(chosen)} finished fits that match ({names}); choose by fold=, seed= and stage="
        )
    return chosen[0]
