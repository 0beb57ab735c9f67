"""Every error the library raises on purpose.

    ClusterPathsError
    ├── InputError             the user can correct it; one paragraph, exit code 2
    │   ├── ConfigError        options that are incompatible
    │   ├── ArraysError        arrays, or parameters of the estimator, that cannot be clustered; a ValueError, too
    │   ├── ModelError         the ONNX file: missing, unreadable, no image input, no such layer
    │   ├── DatasetError       the images or their annotations
    │   │   ├── NoImagesError  a directory without images
    │   │   ├── QuotaError     a file host's quota page was saved where data should be
    │   │   └── RefusedImageError  what was uploaded is not an image that the server can explain
    │   ├── CacheError         activations on disk that belong to another model or data set, or are in use
    │   ├── ExtractionError    too many unreadable images, non-finite activations
    │   ├── NotFoundError      no model, set, layer, cluster or example of that name
    │   ├── DiskError          no room, no permission
    │   ├── EditConflictError  somebody else changed the same text meanwhile
    │   ├── EndpointError      a vision-language model's server that does not answer, refuses, or answers nonsense
    │   ├── TimeLimitError     a task that did not end in time: a disk that hangs
    │   └── StorageError       object storage that does not answer, refuses access, or has no such bucket
    ├── DownloadError          the network; worth a retry
    │   └── OfflineError       the host's name does not resolve; worth one retry
    ├── NoRunError             a server cannot start a run now, for any client
    ├── CorruptedShardError    bytes on disk differ from their checksum; the shard is extracted again
    └── Float16OverflowError   a layer needs float32; extraction widens it and continues

A message states what happened, the actual value, what was expected, and what to do, in one paragraph.
Anything else that is raised is a bug and may show its traceback.
"""

from __future__ import annotations

from typing import Any


class ClusterPathsError(Exception):
    """Base of all errors that are raised on purpose.

    Attributes:
        recoverable: the pipeline handles it and continues: the run does not fail.
    """

    recoverable = False


class InputError(ClusterPathsError):
    """An error that the user can correct."""


class ConfigError(InputError):
    """Options that are out of range or incompatible."""


class ArraysError(InputError, ValueError):
    """Arrays, or parameters of the estimator, that cannot be clustered; scikit-learn's callers expect a ValueError."""


class ModelError(InputError):
    """A model file that is missing, unreadable, or not what the run needs."""


class DatasetError(InputError):
    """Images or annotations that are missing or not what they claim to be."""


class NoImagesError(DatasetError):
    """There is no image in a directory."""


class QuotaError(DatasetError):
    """A file host answered with its "quota exceeded" page instead of the file."""


class RefusedImageError(DatasetError):
    """The upload is not an image that the server can explain; `status` is the HTTP status."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (str(self), self.status), self.__dict__


class CacheError(InputError):
    """A cache that belongs to another model or data set, or that another run is using."""


class ExtractionError(InputError):
    """Extraction cannot give a usable result."""


class NotFoundError(InputError):
    """There is nothing with the requested name or number."""


class DiskError(InputError):
    """The disk is full or may not be written to."""


class EditConflictError(InputError):
    """An edit of a text that somebody else changed meanwhile, or of another set's; nothing was written."""


class EndpointError(InputError):
    """The server of a vision-language model does not answer, refuses the request, or does not speak the protocol."""


class TimeLimitError(InputError):
    """A task did not end within its time limit, most often because a disk does not answer."""


class StorageError(InputError):
    """Object storage that does not answer, refuses the credentials, or has no such bucket."""


class DownloadError(ClusterPathsError):
    """A network failure; a retry can help."""


class OfflineError(DownloadError):
    """The name of a host does not resolve: most often there is no network, and waiting longer does not help."""


class NoRunError(ClusterPathsError):
    """A server cannot start a run now, for any client; the message is the reason."""


class CorruptedShardError(ClusterPathsError):
    """Activations on disk that do not match their recorded checksum."""

    recoverable = True

    def __init__(self, message: str, shard: int) -> None:
        super().__init__(message)
        self.shard = shard

    def __reduce__(self) -> tuple[Any, ...]:  # workers of another process send it pickled
        return type(self), (str(self), self.shard), self.__dict__


class Float16OverflowError(ClusterPathsError):
    """Finite activations that float16 cannot hold: too large, or rounded until images are no longer distinguished."""

    recoverable = True

    def __init__(self, layers: list[str]) -> None:
        super().__init__(
            f"values that float16 cannot hold (beyond 65504, or below its precision) in {', '.join(layers)}"
        )
        self.layers = layers

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.layers,), self.__dict__
