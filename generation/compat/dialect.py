"""What every dialect shares: taking parameters one by one, creating, waiting, and errors in its own shape."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from types import MappingProxyType
from typing import Any, ClassVar, NoReturn, Self, cast

from rest_framework import serializers
from rest_framework.exceptions import NotFound
from rest_framework.negotiation import DefaultContentNegotiation
from rest_framework.permissions import AllowAny
from rest_framework.renderers import JSONRenderer
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from generation.api.idempotency import HEADER as IDEMPOTENCY_HEADER
from generation.api.idempotency import Answer, answer_once
from generation.choices import Kind
from generation.compat.shapes import Shape, openai_shape
from generation.errors import CanceledError, FailedError, IdempotencyConflictError, UnfinishedError
from generation.models import Generation
from generation.requests.creation import generation_submit, request_errors
from imagegen_project.auth.authentication import BearerAuthentication
from imagegen_project.common.errors import DomainError
from imagegen_project.common.http import Preference, caller
from imagegen_project.common.parsers import BoundedJSONParser
from imagegen_project.common.problems import problem_exception_handler, problem_of
from imagegen_project.common.serializers import MAX_NAME_SHOWN, MAX_UNKNOWN_NAMED, did_you_mean
from imagegen_project.common.waiting import Stream, Wait

MAX_PATH_SHOWN = 200


def refuse(param: str, reason: str, code: str = "invalid") -> NoReturn:
    """Raises the ValidationError that blames one parameter."""
    raise serializers.ValidationError({param: serializers.ErrorDetail(reason, code)})


def warning(param: str, reason: str, used: Any = None) -> dict[str, Any]:
    """Something that is accepted and does not do what it says."""
    return {"param": param, "reason": reason, "used": used}


class Params:
    """A request's parameters, each taken once; what is left over is unknown and refused. Null is the same as absent.

    What is wrong is noted in `errors`, by field, and the default used in its place, so that all of it is said at once.
    """

    def __init__(self, data: Any, *, below: str = "") -> None:
        if not isinstance(data, Mapping):
            refuse(below.rstrip(".") or "non_field_errors", "A JSON object is expected.")
        self._left = {str(name): value for name, value in data.items() if value is not None}
        self._below = below
        self._known: set[str] = set()
        self.warnings: list[dict[str, Any]] = []
        self.errors: dict[str, Any] = {}

    def inner(self, name: str, value: Any) -> Self:
        """The parameters in an object that a parameter is, whose warnings and errors are this one's."""
        if not isinstance(value, Mapping):
            self.blame(name, "A JSON object is expected.")
        inner = type(self)(value if isinstance(value, Mapping) else {}, below=f"{self.named(name)}.")
        inner.warnings, inner.errors = self.warnings, self.errors
        return inner

    def blame(self, name: str, reason: str, code: str = "invalid") -> None:
        """Notes what is wrong with a parameter."""
        self.errors.setdefault(self.named(name), serializers.ErrorDetail(reason, code))

    @contextmanager
    def noted(self) -> Iterator[None]:
        """Notes what is refused inside; the first refusal of a parameter counts."""
        try:
            yield
        except serializers.ValidationError as error:
            for name, detail in cast(dict[str, Any], error.detail).items():
                self.errors.setdefault(name, detail)

    def check(self) -> None:
        """Raises ValidationError that names each parameter that is wrong."""
        if self.errors:
            raise serializers.ValidationError(self.errors)

    def take(self, name: str, default: Any = None) -> Any:
        """A parameter's value, or the default."""
        self._known.add(name)
        return self._left.pop(name, default)

    def named(self, name: str) -> str:
        """A parameter's name as errors give it."""
        return self._below + name

    def __contains__(self, name: str) -> bool:
        return name in self._left

    def names(self, prefix: str) -> list[str]:
        """The names of what nobody has taken so far that begin so."""
        return [name for name in self._left if name.startswith(prefix)]

    def rest(self) -> dict[str, Any]:
        """What nobody has taken so far, taken."""
        rest, self._left = self._left, {}
        return rest

    def rename(self, names: Mapping[str, str]) -> dict[str, Any]:
        """The parameters of these names that are there, under their native ones."""
        self._known.update(names)
        return {native: self._left.pop(name) for name, native in names.items() if name in self._left}

    def choice(self, name: str, choices: Iterable[str], default: str) -> str:
        """One of some words."""
        value = self.take(name, default)
        known = list(choices)
        if isinstance(value, str) and value in known:
            return value
        self.blame(name, f"Must be one of {', '.join(known)}.", "invalid_choice")
        return default

    def number(self, name: str, *, low: int, high: int, default: int) -> int:
        """A whole number within bounds."""
        field = serializers.IntegerField(min_value=low, max_value=high)
        return int(self._checked(name, field, default))

    def flag(self, name: str, *, default: bool = False) -> bool:
        """True or false."""
        return bool(self._checked(name, serializers.BooleanField(), default))

    def _checked(self, name: str, field: serializers.Field[Any, Any, Any, Any], default: Any) -> Any:
        try:
            return field.run_validation(self.take(name, default))
        except serializers.ValidationError as error:
            self.errors.setdefault(self.named(name), error.detail)
            return default

    def without_effect(self, name: str, reason: str, *, silent: Iterable[Any] = ()) -> None:
        """Takes a parameter that nothing here follows, with a warning unless its value asks for nothing."""
        value = self.take(name)
        if value is not None and value not in silent:
            self.warnings.append(warning(name, reason))

    def neutral(self, accepted: Mapping[str, tuple[Any, ...]]) -> None:
        """Takes parameters that must keep the values that clients always send."""
        for name, values in accepted.items():
            value = self.take(name)
            if value is not None and value not in values:
                shown = " or ".join(repr(known) for known in values) or "nothing"
                self.blame(name, f"Not supported here; only {shown} is accepted.", "unsupported")

    def end(self) -> None:
        """Notes each parameter that nobody took, the first of them by name."""
        for name in sorted(self._left)[:MAX_UNKNOWN_NAMED]:
            reason = f"Unknown parameter.{did_you_mean(name, self._known)}"
            self.errors.setdefault(
                self.named(name)[:MAX_NAME_SHOWN], serializers.ErrorDetail(reason, "unknown_parameter")
            )


class AlwaysFirst(DefaultContentNegotiation):
    """Answers JSON whatever `Accept` says: these clients ask for what their library is made for."""

    def select_renderer(self, request: Request, renderers: Any, format_suffix: str | None = None) -> Any:
        """The view's first renderer."""
        return renderers[0], renderers[0].media_type


class DialectView(APIView):
    """A view that speaks a dialect: JSON whatever `Accept` says, and errors in the dialect's shape."""

    schema = None  # OpenAPI documents the native API
    authentication_classes: Any = (BearerAuthentication,)
    parser_classes: Any = (BoundedJSONParser,)
    renderer_classes = (JSONRenderer,)
    content_negotiation_class = AlwaysFirst
    shape: Shape
    # What the dialect calls the native fields, for errors.
    names: ClassVar[Mapping[str, str]] = {}
    invalid_status: ClassVar[int] = 400
    prompt_required: ClassVar[bool] = False
    # Whether a job ends with a request that hangs up: where the dialect has no other way to cancel, or to ask again.
    ends_with_request: ClassVar[bool] = False

    def get_exception_handler(self) -> Callable[[Exception, dict[str, Any]], Response]:
        """Errors in the dialect's shape."""
        return self._answer_error

    def _answer_error(self, error: Exception, context: dict[str, Any]) -> Response:
        answer = problem_exception_handler(error, context)
        body = dict(answer.data) if answer is not None else problem_of(error)
        headers = dict(answer.headers) if answer is not None else {}
        headers.pop("Content-Type", None)
        if job_id := body.get("job_id"):
            headers["X-Job-Id"] = job_id
        if isinstance(error, CanceledError | FailedError | IdempotencyConflictError | UnfinishedError):
            # OpenAI's client would ask again by itself, and draw everything twice.
            headers["X-Should-Retry"] = "false"
        body["status"] = self._status(body)
        return Response(self.shape(body), status=body["status"], headers=headers)

    def _status(self, body: dict[str, Any]) -> int:
        if body["errors"] and body["errors"][0]["code"] == "model_not_found":
            return 404
        return self.invalid_status if body["code"] == "invalid_request" else int(body["status"])

    def _create(
        self,
        request: Request,
        data: dict[str, Any],
        *,
        kinds: tuple[Kind, ...],
        warnings: Iterable[dict[str, Any]] = (),
        errors: Mapping[str, Any] = MappingProxyType({}),
    ) -> Generation:
        """Stores the generation, unless the dialect itself found errors.

        Raises what `generation_submit` does, with the dialect's names, and ValidationError with all that is wrong.
        """
        if errors:
            found = request_errors(
                owner=caller(request), data=data, kinds=kinds, prompt_required=self.prompt_required
            )
            raise serializers.ValidationError({**errors, **self._further(found, beside=errors)})
        # Whoever sends a key may come back for the picture.
        ends = self.ends_with_request and IDEMPOTENCY_HEADER not in request.headers
        try:
            return generation_submit(
                owner=caller(request),
                data=data | {"cancel_on_disconnect": ends},
                kinds=kinds,
                prompt_required=self.prompt_required,
                warnings=warnings,
                name=self._name,
            )
        except serializers.ValidationError as error:
            raise serializers.ValidationError(self._renamed(error.detail)) from error
        except DomainError as error:
            error.param = self._name(error.param)
            raise

    def _further(self, found: Mapping[str, Any], *, beside: Mapping[str, Any]) -> dict[str, Any]:
        """Errors in the native fields by the dialect's names, but for those of fields that are blamed already."""
        blamed = {name.partition(".")[0] for name in beside} | {*beside}
        return {name: errors for name, errors in self._renamed(found).items() if name not in blamed}

    def _renamed(self, detail: Any) -> Any:
        if not isinstance(detail, Mapping):
            return detail
        renamed: dict[str, Any] = {}
        for param, errors in detail.items():
            renamed.setdefault(self._name(str(param)), errors)
        return renamed

    def _name(self, param: str) -> str:
        return self.names.get(param.partition(".")[0], param)

    def answer(
        self,
        request: Request,
        data: dict[str, Any],
        *,
        kinds: tuple[Kind, ...],
        afterwards: Callable[[Generation], Wait | Stream],
        warnings: Iterable[dict[str, Any]] = (),
        errors: Mapping[str, Any] = MappingProxyType({}),
    ) -> Response:
        """Stores the generation, once for an Idempotency-Key, and leaves the rest to the gate.

        `warnings` and `errors` are what the dialect found; where there are errors, all of them are answered at once.
        What is returned here only goes out where there is no gate.
        """

        def accepted(generation: Generation) -> Answer:
            body = {"job_id": str(generation.id)}
            return Answer(Response(body, status=202, headers=job_header(generation)), afterwards(generation))

        create = partial(self._create, request, data, kinds=kinds, warnings=warnings, errors=errors)
        return answer_once(request, create=create, answer=accepted)


def result_wait(request: Request, generation: Generation, render_path: str) -> Wait:
    """A wait for a generation, then the answer at the path; as long as `Prefer: wait` or the service says."""
    seconds = Preference.of(request).wait_seconds
    return Wait((generation.id,), seconds, render_path, generation.cancel_on_disconnect)


class NothingHereView(DialectView):
    """Whatever else is asked for below a dialect's root: 404 in its shape."""

    permission_classes = (AllowAny,)
    shape: Shape = staticmethod(openai_shape)

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        """Raises NotFound, whatever the method."""
        raise NotFound(f"There is nothing at {request.path[:MAX_PATH_SHOWN]}.")


def job_header(generation: Generation) -> dict[str, str]:
    """Which job an answer is about."""
    return {"X-Job-Id": str(generation.id)}
