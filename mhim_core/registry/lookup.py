"""The registered model that a reference such as `lung@champion` means."""

from mhim_core.errors import InputError
from mhim_core.registry.models import RegisteredModel, find_version, read_model_folder
from mhim_core.registry.names import CHAMPION, parse_reference
from mhim_core.registry.promotions import champion
from mhim_core.storage import Storage


def find_model(registry: Storage, reference: str) -> RegisteredModel:
    """The model that `<name>@champion` or `<name>@<version>` means.

    Raises ConfigError for what is no reference, InputError where there is no such model, or several begin with these
    digits, IntegrityError for a damaged card or promotion.
    """
    name, version = parse_reference(reference)
    if version != CHAMPION:
        return find_version(registry, name, version)
    record = champion(registry, name)
    if record is None:
        raise InputError(f"{registry.uri}: {name} has no champion; mhim model ls lists its models")
    return read_model_folder(registry, name, record.version)
