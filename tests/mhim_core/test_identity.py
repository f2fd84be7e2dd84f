"""What identifies a result keeps its fingerprint when a later version adds an option: for every class by itself."""

import ast
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import mhim_core
from mhim_core.cohort.rows import CohortRow
from mhim_core.cohort.task_options import SplitOptions, TaskOptions
from mhim_core.embed.card import EncoderCard
from mhim_core.errors import IntegrityError
from mhim_core.features import BACKEND_OF_0_1, MppUsed, SlideReading, SourceHint, SourceIdentity
from mhim_core.fingerprint import NEUTRAL, fingerprint, neutral_fields, neutral_values, to_plain
from mhim_core.mil.model_options import MhimOptions, ModelOptions
from mhim_core.records import field_names, read_record
from mhim_core.registry.card import Member, RegistryCard, TrainedOn
from mhim_core.registry.gate_options import GateOptions, HoldoutOptions
from mhim_core.registry.holdout import Holdout, HoldoutSlide
from mhim_core.registry.promotions import Kind, Promotion
from mhim_core.slides.spec import (
    GlassRule,
    SlidePolicy,
    TileSpec,
    TissueMethod,
    TissueRule,
    stored_spec,
    tiling_identity,
)
from mhim_core.store.feature_sets import FeatureSet
from mhim_core.store.record import CommitRecord
from mhim_core.task import ClassTarget, FittedTask, SurvivalTarget, Task, TaskKind, ValueTarget, fit_task
from mhim_core.train.card import ModelCard
from mhim_core.train.fit_options import FitOptions, Precision
from mhim_core.train.plan import FitSpec, LabelledBag, Stage, TrainPlan
from mhim_core.train.prediction import PredictOptions
from mhim_core.train.results import FitIdentity, FitResult, fit_identity
from mhim_core.types import BagId, PatientId, SlideId, Status

SOURCE = SourceIdentity(10, "ab")
READING = SlideReading(
    source=SOURCE,
    hint=SourceHint("a.svs", 10, "1"),
    source_sha256="",
    mpp=MppUsed(0.5, 0.5, "slide"),
    effective_mpp=(0.5, 0.5),
    upsample=1.0,
    backend=BACKEND_OF_0_1,
)
TASK = Task(kind=TaskKind.classification, classes=("no", "yes"))
SPEC = FitSpec("seed-1/fold-0/plain", 0, Stage.plain, 1, (LabelledBag(BagId("a"), ClassTarget(1)),), (), None)
OTSU = TileSpec(tissue=TissueMethod.otsu)
"""The tiles of 0.1: the default of later versions is another tissue finder."""
MASKED = MhimOptions(full_view_weight=0.0)
"""The student of 0.1: the default of later versions sees the whole bag as well."""
CARD = EncoderCard(
    id="toy",
    source="made up",
    weights_sha256="ab",
    revision="",
    licence="MIT",
    pooling="avg",
    network={"name": "toy", "args": [1, 2]},
    transform={"input_px": 224},
    dim=4,
)
KNOWN = TrainedOn(
    cohort="c",
    feature_set="f",
    manifest_version=1,
    manifest_sha256="m",
    num_slides=1,
    num_patients=1,
    patients=("p",),
    sources=("s",),
)
MEMBER = Member(
    file="members/a.safetensors",
    sha256="ab",
    seed=1,
    fold=0,
    stage="plain",
    append_recycled=False,
    temperature=1.5,
    threshold=None,
)
EXAMPLES: dict[type, Any] = {
    type(example): example
    for example in (
        ModelOptions(),
        MASKED,
        FitOptions(),
        TaskOptions(),
        SplitOptions(),
        OTSU,
        TissueRule(),
        GlassRule(),
        SlidePolicy(),
        GateOptions(),
        HoldoutOptions(),
        TASK,
        FittedTask(kind=TaskKind.survival, time_bins=2, inner_edges=(1.5,)),
        CARD,
        FeatureSet(tiling=tiling_identity(OTSU), encoder=CARD.to_dict(), encoder_identity=CARD.identity()),
        ModelCard(
            stage=Stage.mhim,
            fold=0,
            seed=1,
            d_in=4,
            task=FittedTask(kind=TaskKind.classification, classes=("no", "yes")),
            precision=Precision.float32,
            model=ModelOptions(),
            mhim=MASKED,
            provenance={"encoder": "e"},
        ),
        MEMBER,
        KNOWN,
        RegistryCard(
            task=TASK,
            unit="slide",
            members=(MEMBER,),
            encoder=CARD.to_dict(),
            encoder_identity=CARD.identity(),
            tiling=tiling_identity(OTSU),
            recipe={"method": "plain", "fit": {"epochs": 2}},
            trained_on=KNOWN,
        ),
        Holdout(
            name="lung",
            task=TASK,
            options=HoldoutOptions(),
            slides=(
                HoldoutSlide(
                    slide_id=SlideId("a"), patient_id=PatientId("p"), label="no", time=None, event=None, source=SOURCE
                ),
            ),
        ),
        HoldoutSlide(
            slide_id=SlideId("a"), patient_id=PatientId("p"), label="no", time=None, event=None, source=SOURCE
        ),
        Promotion(name="lung", number=1, version="v", base=0, kind=Kind.gate, by_flow="retrain"),
        CommitRecord(
            slide_id=SlideId("a"),
            status=Status.OK,
            key="k",
            sha256="ab",
            num_bytes=1,
            num_tiles=2,
            dim=4,
            dtype="float16",
            reading=READING,
            num_bad_tiles=0,
            feature_set="f",
            tiling="t",
            encoder="e",
            versions={"mhim": "0.1"},
            committed_by="mhim 0.1",
        ),
        FitResult(
            name="seed-1/fold-0/plain",
            stage=Stage.plain,
            fold=0,
            seed=1,
            identity="i",
            data_identity="d",
            model_key="k",
            model_sha256="ab",
            best_epoch=1,
            metric_name="auroc",
            metric=None,
            validation_loss=0.5,
            stopped_early=False,
            history=(),
        ),
    )
}

# computed by version 0.1, whose stores, runs and registries are named by such digests: never to be replaced
PINS: dict[type, str] = {
    ModelOptions: "2945062e7e4123f88a8df321a6452317a23a618d77d7486e24d79823ceae72e8",
    MhimOptions: "5ee64ea3d6ab96750c95418a56b67289bd0f32e9c519ac0f3c72e4021a3e010e",
    FitOptions: "7cffcf44a8deb9b74829e8bb7f0a6a7d871d5a296fe840e10aa138bf7c138ab9",
    TaskOptions: "ed4d0a360c9584a01c3b0ed26741303bcb83657cadaa66d90330a35d54bff0de",
    SplitOptions: "ce468fa77979a192cce6ad250fa7ccf98f2e6c0643b205e041da16e083ecd026",
    TileSpec: "efce155fefb2f512e4312bb62b7f95bc1a5e3eef83487a9b81b1d75c2978e1b8",
    TissueRule: "cbbe822409578ec5ef130f2ebd1a995597948e56811f3875f141dfda4a620d06",
    GlassRule: "f7d0f23679b0411847aeb38134cbea0208bc5b59d66ea68c83299cc52502275a",  # 0.2's
    SlidePolicy: "76f5e9716820b9dd88708827480d2908bc0e27dfcb253baff78560de6ff6b1a4",
    GateOptions: "9ee6d5f2db46bc572ade2b4f8520b92c92a234838cfb6c2766a5612617331f15",
    HoldoutOptions: "6b37e1bd577cbb30e309704eefecf57415c3141738cf14cfe32f68d430deb764",
    Task: "fe2b85352d2557a1480e11e4f214a9ccb9fc6c8ec715df9ffecf5d1563ab22b5",
    FittedTask: "31210569df08c53944d42c45a5f7da1f2404cfd276b8767f3b9fb041b3eb18e3",
    EncoderCard: "e9b4ad1e70f621f05ff192c992333a3bcc0d70eddb7e343301d84cc718e935d2",
    FeatureSet: "f7e8d4c072b3aecbc6f292ff80016f33e8ef43d18fba608e1270a95598089dbf",
    ModelCard: "24148706daf96f5c66de8629d751638c2ff51ec12c15f8d659296f018e275354",
    Member: "36cc911d5d1c598e67886f95bd8104ef7557403f4eb59c6cdb938cb557e2ea62",
    TrainedOn: "e803a53b13cf3b156c9e07350112067e4f54994a543ebf4c7f1ad30d621e16bd",
    RegistryCard: "0e580465861501f6",
    Holdout: "e36b166959432de9103d7dff2cc7b9efcc233fac2dbc4f9b43ceb9163acb0d97",
    HoldoutSlide: "c7d12e63d083e1dfc0d280b529bb8c5ca60c1e04f40ad316ef6da5e25df3f920",
    Promotion: "8191f3b3f57561e9f428fdd961020c338ce0f2987de760da3b5e16df6ddecb03",
    CommitRecord: "cb1e1f1a2f5ecc483387663527f687555829702e3f0af8f66f1e414b279f2dce",
    FitResult: "5aa7eb9adb0fdb501d8a5d7f65f7f75797b8a2d6b750c0df21c6e9aac82b6906",
}

FIELDS_OF_0_1: dict[type, str] = {
    ModelOptions: (
        "aggregator plugin_sha256 embed_dim embed_activation attention_activation gated dropout "
        "transmil_dropout clam_instance_weight clam_num_sampled clam_subtyping"
    ),
    MhimOptions: (
        "high_mask_ratio high_mask_subsample high_mask_schedule random_mask_ratio recycle_queries "
        "recycle_momentum recycle_dropout temperature consistency_weight ema_momentum ema_schedule "
        "score teacher_mode student_init recycle_at_test token_order v1_random_mask_ratio "
        "v1_low_mask_ratio"
    ),
    FitOptions: (
        "epochs learning_rate min_learning_rate weight_decay patience patience_from_epoch "
        "global_batch class_weights balanced_sampling max_instances selection precision seed"
    ),
    TileSpec: "target_mpp tile_px overlap_px min_tissue",
    TissueRule: (
        "name version mask_mpp min_saturation max_saturation min_value min_background_value "
        "min_contrast max_speck_um2 max_hole_um2"
    ),
    GlassRule: (  # of 0.2
        "name version mask_mpp glass_spread min_saturation faint_saturation max_glass_saturation min_density min_value "
        "min_background_value max_speck_um2 max_hole_um2 pen_version fat_version"
    ),
    SlidePolicy: "max_upsample default_mpp",
    TaskOptions: "task time_bins bags",
    SplitOptions: "scheme folds val_fraction test_fraction",
    HoldoutOptions: "holdout_fraction holdout_seed",
    GateOptions: (
        "gate_metric gate_delta gate_site_delta gate_brier_epsilon gate_floor gate_site_patients "
        "gate_replicates gate_level never_miss may_change"
    ),
    EncoderCard: (
        "id source weights_sha256 revision licence pooling network transform precision runtime dim "
        "batch_size num_threads"
    ),
    Task: "kind classes time_bins",
    FittedTask: "kind classes time_bins inner_edges target_mean target_deviation",
    ModelCard: "stage fold seed d_in task precision model mhim provenance",
    Member: "file sha256 seed fold stage append_recycled temperature threshold reason best_epoch validation",
    TrainedOn: "cohort feature_set manifest_version manifest_sha256 num_slides num_patients patients sources salt",
    RegistryCard: (
        "task unit members encoder encoder_identity tiling recipe trained_on estimate holdout "
        "versions created_by intended_use started_from"
    ),
    Holdout: "name task options slides",
    HoldoutSlide: "slide_id patient_id label time event source",
    CommitRecord: (
        "slide_id status key sha256 num_bytes num_tiles dim dtype source hint source_sha256 mpp "
        "effective_mpp upsample num_bad_tiles feature_set tiling encoder versions committed_by"
    ),
    FeatureSet: "tiling encoder encoder_identity",
    Promotion: "name number version base kind by_flow by_fingerprint reason decision figures promoted_s",
    FitResult: (
        "name stage fold seed identity data_identity model_key model_sha256 best_epoch metric_name "
        "metric validation_loss stopped_early history"
    ),
    FitIdentity: "schema spec d_in task provenance model fit mhim teacher warm_start",
    PredictOptions: "",  # a section that 0.1 did not have
}
NAMED_TUPLES_OF_0_1: dict[type, str] = {
    SourceIdentity: "num_bytes digest",
    SourceHint: "uri num_bytes version",
    MppUsed: "x y source",
    ClassTarget: "class_index",
    SurvivalTarget: "time event",
    ValueTarget: "value",
    LabelledBag: "bag_id target",
    FitSpec: "name fold stage seed train validation teacher",
    CohortRow: "slide_id uri patient_id label mpp split site sha256 time event fold row",
}
LEFT_OUT_BY_0_1 = {(TrainedOn, "salt"), (FitIdentity, "warm_start")}
"""Absent from what 0.1 wrote unless they were used."""
NO_IDENTITY = {"TableOptions", "FitExecution", "PaintedSlide", "RemoteOptions", "DiscoveryOptions", "FlipOptions"}

classes = pytest.mark.parametrize("kind", EXAMPLES, ids=lambda kind: kind.__name__)


def later(example: Any, added: float) -> Any:
    """The same of a later version, whose class has one field more: neutral at 0, and 0.5 by default."""
    field = dataclasses.field(default=0.5, metadata={NEUTRAL: 0.0})
    kind = dataclasses.make_dataclass(
        f"Later{type(example).__name__}", [("added", float, field)], bases=(type(example),), frozen=True, kw_only=True
    )
    own = {field.name: getattr(example, field.name) for field in dataclasses.fields(example)}
    return kind(**own, added=added)


def plan(**changes: Any) -> TrainPlan:
    made = TrainPlan(
        fits=(SPEC,),
        d_in=4,
        task=TASK,
        model=ModelOptions(),
        mhim=MASKED,
        fit=FitOptions(),
        provenance={"encoder": "e"},
    )
    return dataclasses.replace(made, **changes)


@classes
def test_what_0_1_wrote_keeps_its_fingerprint(kind: type) -> None:
    digest = EXAMPLES[kind].version if kind is RegistryCard else fingerprint(EXAMPLES[kind])
    assert digest == PINS[kind], f"{kind.__name__}: stores, runs and registries of 0.1 would no longer be found"


@pytest.mark.parametrize(
    ("digest", "pin"),
    [
        (
            lambda: fingerprint(tiling_identity(OTSU)),
            "8a4188948c177d724cf1e055297a7b09c056f0f30c6065f6cafbe48d1dba0a5e",
        ),
        (lambda: fingerprint(CARD.identity()), "9a46e3e2ff46021bcc0e6e727f9b957d41ff2ee2f22a8fb3e953d1d306a019f1"),
        (lambda: EXAMPLES[FeatureSet].fingerprint, "80bb969d071290a95b7cbc9f9d3101bdd8b926555e3aa1793f3249ff5ffeae59"),
        (lambda: fit_identity(plan(), SPEC, None), "cadc868d59a0b840c4971816217453335c9115a508215f8a52bdab165348f8e6"),
        (
            lambda: fit_identity(plan(warm_start={1: "ab"}), SPEC, None),
            "2470b0af12a75de3cf0a38b4eac24bd576ff7342b27ae6dcfe47f4c173690c2b",
        ),
        (
            lambda: fingerprint(CohortRow(SlideId("a"), "a.svs", PatientId("p"), "no")),
            "a45454cba19876db7fd44d2b9879e9b82c8c149f8310085f5dec84182d3c0602",
        ),
        (
            lambda: fingerprint(dataclasses.replace(KNOWN, salt="s")),
            "7a64986c824e210b52839f44517d46072222208cc2fa3241ffd193e1579a5836",
        ),
    ],
    ids=["tiling", "encoder", "feature set", "fit", "warm start", "row", "salted"],
)
def test_what_is_made_of_several_keeps_the_fingerprint_of_0_1(digest: Callable[[], str], pin: str) -> None:
    assert digest() == pin


@classes
def test_a_later_option_changes_a_fingerprint_only_where_it_is_used(kind: type) -> None:
    example = EXAMPLES[kind]
    assert fingerprint(later(example, 0.0)) == fingerprint(example)
    assert fingerprint(later(example, 0.5)) != fingerprint(example)


@classes
def test_a_record_of_an_older_version_reads_as_neutral_whatever_the_default_is(kind: type) -> None:
    example = EXAMPLES[kind]
    neutral = later(example, 0.0)
    assert read_record(type(neutral), to_plain(example), "here") == neutral
    assert read_record(kind, to_plain(example), "here") == example


@classes
def test_a_record_of_a_newer_version_is_refused_by_the_option_that_it_uses(kind: type) -> None:
    example = EXAMPLES[kind]
    assert read_record(kind, to_plain(later(example, 0.0)), "here") == example
    with pytest.raises(IntegrityError, match=r"here.*added=0\.5"):
        read_record(kind, to_plain(later(example, 0.5)), "here")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("gated", "false"),
        ("gated", 2),
        ("embed_dim", "512"),
        ("embed_dim", 512.5),
        ("embed_dim", True),
        ("dropout", None),
        ("dropout", "0.1"),
        ("aggregator", None),
        ("embed_activation", "swish"),
    ],
)
def test_a_value_of_another_type_than_its_field_s_is_refused_by_name(field: str, value: Any) -> None:
    with pytest.raises(IntegrityError, match=rf"here(, {field}| is no ModelOptions).*{value}"):
        read_record(ModelOptions, to_plain(ModelOptions()) | {field: value}, "here")


@pytest.mark.parametrize(
    ("kind", "field", "value", "read"),
    [
        (MppUsed, "x", 1, 1),
        (ModelOptions, "gated", 1, True),
        (ModelOptions, "embed_dim", 512.0, 512),
        (MhimOptions, "ema_momentum", 0.99, "0.99"),
    ],
)
def test_a_value_becomes_its_field_s_type_where_nothing_is_lost(kind: type, field: str, value: Any, read: Any) -> None:
    """As Python's callers wrote it: 0.1 took `MhimOptions(ema_momentum=0.99)`, and its models are read."""
    record = {"x": 0.5, "y": 0.5, "source": "slide"} if kind is MppUsed else to_plain(kind())
    taken = getattr(read_record(kind, record | {field: value}, "here"), field)
    assert (taken, type(taken)) == (read, type(read))


@pytest.mark.parametrize("value", ["ab", {"0": "a"}, 3, None])
def test_a_list_s_field_takes_nothing_else(value: Any) -> None:
    with pytest.raises(IntegrityError, match="here"):
        read_record(
            FittedTask,
            to_plain(FittedTask(kind=TaskKind.classification, classes=("a", "b"))) | {"classes": value},
            "here",
        )


def test_an_option_within_an_identity_counts_as_by_itself() -> None:
    def digests(added: float) -> list[str]:
        spec, card, task = later(OTSU, added), later(CARD, added), later(TASK, added)
        feature_set = FeatureSet(tiling=tiling_identity(spec), encoder=card.to_dict(), encoder_identity=card.identity())
        registered = dataclasses.replace(EXAMPLES[RegistryCard], task=task)
        return [
            feature_set.fingerprint,
            feature_set.tiling_fingerprint,
            feature_set.encoder_fingerprint,
            registered.version,
            dataclasses.replace(EXAMPLES[Holdout], options=later(HoldoutOptions(), added)).fingerprint,
            fit_identity(plan(task=task), SPEC, None),
            fit_identity(plan(model=later(ModelOptions(), added)), SPEC, None),
            fit_identity(plan(fit=later(FitOptions(), added)), SPEC, None),
            fit_identity(plan(mhim=later(MASKED, added)), SPEC._replace(stage=Stage.mhim), "teacher"),
        ]

    features, card, student = EXAMPLES[FeatureSet], EXAMPLES[RegistryCard], SPEC._replace(stage=Stage.mhim)
    before = [
        *(features.fingerprint, features.tiling_fingerprint, features.encoder_fingerprint, card.version),
        EXAMPLES[Holdout].fingerprint,
        *[fit_identity(plan(), SPEC, None)] * 3,
        fit_identity(plan(), student, "teacher"),
    ]
    assert digests(0.0) == before
    assert not {*digests(0.5)} & {*before}


def test_a_named_tuple_says_what_is_neutral_by_a_decorator() -> None:
    @neutral_fields(added=0)
    class LaterSource(NamedTuple):
        num_bytes: int
        digest: str
        added: int

    assert fingerprint(LaterSource(10, "ab", 0)) == fingerprint(SOURCE)
    assert fingerprint(LaterSource(10, "ab", 1)) != fingerprint(SOURCE)
    assert read_record(LaterSource, to_plain(SOURCE), "here") == LaterSource(10, "ab", 0)
    with pytest.raises(IntegrityError, match="added=1"):
        read_record(SourceIdentity, to_plain(LaterSource(10, "ab", 1)), "here")


def test_a_stored_tiling_reads_back_and_one_that_is_cut_otherwise_is_refused() -> None:
    spec = TileSpec(target_mpp=1.0, tissue=TissueMethod.glass)
    tiling = tiling_identity(spec)
    assert stored_spec(tiling, "slides") == spec
    with pytest.raises(ValueError, match=r"slides .*tissue rule"):
        stored_spec(tiling | {"tissue": tiling["tissue"] | {"version": 2}}, "slides")
    with pytest.raises(IntegrityError, match=r"slides.*added=0\.5"):
        stored_spec(tiling_identity(later(spec, 0.5)), "slides")


def test_what_the_cohort_says_of_a_task_survives_fitting_a_fold() -> None:
    task = Task(kind=TaskKind.survival, time_bins=2)
    fitted = fit_task(task, [SurvivalTarget(1.0, True), SurvivalTarget(2.0, True)])
    assert fitted.inner_edges == (1.5,)
    assert fitted.unfitted == task


@pytest.mark.parametrize("kind", [*FIELDS_OF_0_1, *NAMED_TUPLES_OF_0_1], ids=lambda kind: kind.__name__)
def test_every_field_since_0_1_says_what_is_neutral(kind: type) -> None:
    old = set((FIELDS_OF_0_1 | NAMED_TUPLES_OF_0_1)[kind].split())
    neutral = {name: name in neutral_values(kind) for name in field_names(kind)}
    silent = sorted(name for name, has in neutral.items() if name not in old and not has)
    assert not silent, (
        f"{kind.__name__}: {', '.join(silent)} changes every fingerprint that 0.1 made: declare "
        "metadata={'neutral': …}, the value that means what versions before it did (CONTRIBUTING, Adding an option)"
    )
    assert old <= neutral.keys(), "a field of 0.1 that is gone changes fingerprints too"
    wrong = {name for name in old if neutral[name] and (kind, name) not in LEFT_OUT_BY_0_1}
    assert not wrong, "the fields of 0.1 are always stated: 0.1 wrote them"


def test_every_class_of_options_is_pinned_here() -> None:
    pinned = {kind.__name__ for kind in FIELDS_OF_0_1} | NO_IDENTITY
    option_classes = {
        node.name
        for path in Path(mhim_core.__file__).parent.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ClassDef) and node.name.endswith(("Options", "Policy", "Rule", "Spec"))
        if path.parent.name != "aggregators"  # fields of ModelOptions
    }
    named_tuples = {kind.__name__ for kind in NAMED_TUPLES_OF_0_1}
    assert option_classes <= pinned | named_tuples, "pin its first fields, or say that it is in no identity"
