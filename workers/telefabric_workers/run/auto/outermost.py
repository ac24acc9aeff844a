"""The outermost environment of a call is observed: the one that the program steps, with all its wrappers.

`watch` puts a probe in the place of `reset`, `step` and `close` of a base class and of each class that is derived from
it. A probe that is called within another one of the same thread only calls what it replaces. So neither what a program
holds nor its types change, and a wrapper that is added later is outermost from then on.

What is recorded is decided by an adapter of `telefabric_workers.integrations`. It wraps an `Echo` of the environment
instead of the environment, and carries out the program's call in its midst.

An environment is known from its first reset on, and in a forked child of the program that has reset it from the child's
first step on. A copy of one that is only stepped, such as a planner's, is not.
"""

from __future__ import annotations

import functools
import inspect
import os
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from telefabric_workers.run.auto.session import session

_PROBED = ("reset", "step", "close")
_MARK = "_telefabric_probe"


class Echo:
    """What an adapter wraps: it looks like an environment, and its next call is the one that the program has made.

    It does not keep the environment alive.
    """

    def __init__(self, env: Callable[[], Any]) -> None:
        self._env = env
        self._name = ""
        self._call: Callable[[], Any] | None = None
        self._error: BaseException | None = None
        self._result: Any = None

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        """For `isinstance`, which adapters ask."""
        return type(self._env())

    def __getattr__(self, name: str) -> Any:
        return getattr(self._env(), name)

    def _carry_out(self, *_: Any, **__: Any) -> Any:
        call, self._call = self._call, None
        assert call is not None, "an adapter makes each call once"
        try:
            self._result = call()
        except BaseException as error:
            self._error = error
            raise
        return self._result

    reset = step = close = _carry_out

    def last(self, observe: bool = True) -> Any:
        """PettingZoo's, which an adapter may also call by itself."""
        return self._carry_out() if self._name == "last" else self._env().last(observe)

    def render(self) -> Any:
        return self._env().render()

    def expect(self, name: str, env: Callable[[], Any], call: Callable[[], Any]) -> None:
        """The program calls this environment, the same or a wrapper of it."""
        self._name, self._env, self._call, self._error = name, env, call, None

    def answer(self, error: Exception) -> Any:
        """What the program gets when the adapter has failed, before or after its call. Raises the call's own error."""
        if self._error is not None:
            raise error
        session.failed(error)
        return self._result if self._call is None else self._carry_out()


class Observed:
    """An environment with the adapter that records it. One thread at a time, as the environment."""

    def __init__(self, echo: Echo, adapter: Any, places: Callable[[], list[tuple[int, int]]]) -> None:
        self._echo = echo
        self._adapter = adapter
        self._places = places
        self._ended = False

    def call(
        self, name: str, env: Callable[[], Any], call: Callable[[], Any], given: tuple[Any, ...], named: dict[str, Any]
    ) -> Any:
        """Carry out a call that the program makes, and record it."""
        self._echo.expect(name, env, call)
        try:
            if name == "reset":
                named = dict(zip(("seed", "options"), given, strict=False)) | named
                return self._adapter.reset(seed=named.get("seed"), options=named.get("options"))
            if name == "close":
                return self._adapter.close()
            return getattr(self._adapter, name)(*given, **named)
        except Exception as error:  # noqa: BLE001  ours are counted, the environment's are raised
            return self._echo.answer(error)

    def disown(self) -> None:
        """In a forked child: its places are the parent's."""
        self._ended = True

    def end(self) -> None:
        """It was closed, or is gone."""
        if not self._ended:
            self._ended = True
            session.give_back(self._places())


Adapt = Callable[[Echo], "Observed | None"]


class _Known(NamedTuple):
    env: weakref.ref[Any]
    observed: Observed | None


class _Thread(threading.local):
    """What a thread's probes share.

    A program may pickle a class of its own with the probes in it, and load it where there is no telefabric: there the
    probes only call what they have replaced.
    """

    inside = False
    """A probe is under way."""

    def observe(
        self, kind: str, name: str, original: Callable[..., Any], env: Any, given: tuple[Any, ...], named: Any
    ) -> Any:
        """Carry out the call of the outermost probe."""
        self.inside = True
        try:
            known = None if session.silent else _find(kind, env) or _look_at(kind, env, name)
            if known is None or known.observed is None:
                return original(env, *given, **named)
            call = functools.partial(original, env, *given, **named)
            result = known.observed.call(name, known.env, call, given, named)
            if name == "close":
                _forget(known.observed)
            return result
        finally:
            self.inside = False

    def __reduce__(self) -> Any:
        return eval, (_UNPICKLED,)


_UNPICKLED = (
    f"getattr(__import__('sys').modules.get({__name__!r}), '_thread', __import__('types').SimpleNamespace(inside=True))"
)


def watch(base: Any, adapt: Adapt, probed: Sequence[str] = _PROBED) -> None:
    """Observe the environments of this class and of all that are derived from it, now and later."""
    kind = f"{base.__module__}.{base.__qualname__}"
    _adapters[kind] = adapt
    before = vars(base).get("__init_subclass__")

    def derived(cls: Any, /, **given: Any) -> None:
        inherited = super(base, cls).__init_subclass__ if before is None else before.__get__(None, cls)
        inherited(**given)
        try:
            _probe_methods(cls, kind, probed)
        except Exception as error:  # noqa: BLE001  whatever the class's own metaclass raises
            session.failed(error)

    base.__init_subclass__ = classmethod(derived)
    for cls in _derived(base):
        _probe_methods(cls, kind, probed)


def records_itself(echo: Echo) -> bool:
    """The program has wrapped the environment in one of our adapters already."""
    layer = echo._env()
    while layer is not None and not type(layer).__module__.startswith("telefabric_workers.integrations"):
        layer = vars(layer).get("env")
    if layer is not None:
        session.left += getattr(layer, "num_envs", 1)
    return layer is not None


def _derived(cls: type) -> Iterator[type]:
    yield cls
    one: type
    for one in cls.__subclasses__():
        yield from _derived(one)


def _probe_methods(cls: type, kind: str, probed: Sequence[str]) -> None:
    for name in probed:
        method = inspect.getattr_static(cls, name, None)
        is_method = inspect.isroutine(method) and not isinstance(method, (staticmethod, classmethod))
        if is_method and not hasattr(method, _MARK):
            setattr(cls, name, _probe(kind, name, method, _thread))


def _probe(kind: str, name: str, original: Callable[..., Any], thread: _Thread) -> Any:
    @functools.wraps(original)
    def probe(self: Any, *given: Any, **named: Any) -> Any:
        if thread.inside:
            return original(self, *given, **named)
        return thread.observe(kind, name, original, self, given, named)

    setattr(probe, _MARK, True)
    return probe


def _look_at(kind: str, env: Any, name: str) -> _Known | None:
    """An environment that is called for the first time, or a wrapper of a known one."""
    try:
        root = env.unwrapped
        known = _find(kind, root)
        if known is None:
            if name != "reset" and not (name == "step" and _is_inherited(kind, root)):
                return None
            observed = _adapters[kind](Echo(weakref.ref(env)))
            if observed is not None:
                weakref.finalize(root, observed.end).atexit = False
            known = _remember(kind, root, observed)
        return known if root is env else _remember(kind, env, known.observed)
    except Exception as error:  # noqa: BLE001  whatever the environment's own attributes raise
        session.failed(error)
        return None


def _find(kind: str, env: Any) -> _Known | None:
    known = _known.get((kind, id(env)))
    return None if known is None or known.env() is not env else known


def _remember(kind: str, env: Any, observed: Observed | None) -> _Known:
    key = kind, id(env)
    known = _known[key] = _Known(weakref.ref(env, lambda _: _known.pop(key, None)), observed)
    return known


def _forget(observed: Observed) -> None:
    """A closed environment that is reset again is a new one."""
    observed.end()
    for key in list(_known):  # which lose one whenever an environment is gone
        known = _known.get(key)
        if known is not None and known.observed is observed:
            _known.pop(key, None)


def _is_inherited(kind: str, root: Any) -> bool:
    return _inherited.get((kind, id(root)), lambda: None)() is root


def _forked() -> None:
    """What a child resets or steps is its own. What the parent's adapters know of it is not."""
    for key, known in list(_known.items()):
        if known.observed is not None:
            known.observed.disown()
            _inherited[key] = known.env
    _known.clear()


_thread = _Thread()
_adapters: dict[str, Adapt] = {}
_known: dict[tuple[str, int], _Known] = {}
"""By kind and id: those that the program calls, and what they are without their wrappers."""
_inherited: dict[tuple[str, int], weakref.ref[Any]] = {}
"""In a forked child: environments that the parent had reset."""
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)
