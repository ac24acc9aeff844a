"""The outermost environment of a call is observed: the one that the program steps, with all its wrappers.

`watch` puts a probe in the place of `reset`, `step` and `close` of a base class and of each class that is derived from
it. A probe that is called within another one of the same thread only calls what it replaces. So neither what a program
holds nor its types change, and a wrapper that is added later is outermost from then on.

What is recorded is decided by an adapter of `telefabric_workers.integrations`. It wraps an `Echo` of the environment
instead of the environment, and carries out the program's call in its midst.

An environment is known from its first reset on. A copy of one that is only stepped, such as a planner's, is not.
"""

from __future__ import annotations

import functools
import inspect
import os
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from telefabric_workers.run.auto.session import session

PROBED = ("reset", "step", "close")
_MARK = "_telefabric_probe"


class Echo:
    """What an adapter wraps: it looks like an environment, and its next call is the one that the program has made.

    It does not keep the environment alive.
    """

    def __init__(self, env: Callable[[], Any]) -> None:
        self._env = env
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

    @property
    def failed(self) -> bool:
        return self._error is not None

    def answer(self) -> Any:
        """What the program gets: also when the adapter has not come to its call."""
        if self._call is not None:
            self._carry_out()
        result, self._result = self._result, None
        return result

    def render(self) -> Any:
        return self._env().render()

    def expect(self, env: Callable[[], Any], call: Callable[[], Any]) -> None:
        """The program calls this environment, the same or a wrapper of it."""
        self._env, self._call, self._error, self._result = env, call, None, None


class Observed:
    """An environment with the adapter that records it. One thread at a time, as the environment."""

    def __init__(self, echo: Echo, adapter: Any, places: Callable[[], list[tuple[int, int]]]) -> None:
        self._echo = echo
        self._adapter = adapter
        self._places = places
        self._ended = False

    def call(self, name: str, env: weakref.ref[Any], call: Callable[[], Any], arguments: tuple[Any, Any]) -> Any:
        """Carry out a call that the program makes, and record it."""
        echo = self._echo
        echo.expect(env, call)
        given, named = arguments
        try:
            if name == "step":
                self._adapter.step(*given, **named)
            elif name == "reset":
                named = dict(zip(("seed", "options"), given, strict=False)) | named
                self._adapter.reset(seed=named.get("seed"), options=named.get("options"))
            else:
                self._adapter.close()
        except Exception as error:
            if echo.failed:
                raise  # the environment's own
            session.failed(error)
        return echo.answer()

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
    inside = False
    """A probe is under way."""


class _Observe:
    """What each probe calls.

    A program may pickle a class of its own with the probes in it, and load it where there is no telefabric: there a
    probe only calls what it has replaced.
    """

    def __call__(
        self, adapt_name: str, name: str, original: Callable[..., Any], env: Any, given: tuple[Any, ...], named: Any
    ) -> Any:
        if _thread.inside or session.silent:
            return original(env, *given, **named)
        _thread.inside = True
        try:
            known = _find(adapt_name, env) or _look_at(adapt_name, env, name)
            if known is None or known.observed is None:
                return original(env, *given, **named)
            result = known.observed.call(
                name, known.env, functools.partial(original, env, *given, **named), (given, named)
            )
            if name == "close":
                _forget(known.observed)
            return result
        finally:
            _thread.inside = False

    def __reduce__(self) -> Any:
        return eval, (_UNPICKLED,)


_UNPICKLED = (
    f"getattr(__import__('sys').modules.get({__name__!r}), '_observe',"
    " lambda adapt_name, name, original, env, given, named: original(env, *given, **named))"
)


def watch(base: Any, adapt: Adapt) -> None:
    """Observe the environments of this class and of all that are derived from it, now and later."""
    name = f"{base.__module__}.{base.__qualname__}"
    _adapters[name] = adapt
    before = vars(base).get("__init_subclass__")

    def derived(cls: Any, /, **given: Any) -> None:
        inherited = super(base, cls).__init_subclass__ if before is None else before.__get__(None, cls)
        inherited(**given)
        try:
            _probe_methods(cls, name)
        except Exception as error:  # noqa: BLE001  whatever the class's own metaclass raises
            session.failed(error)

    base.__init_subclass__ = classmethod(derived)
    for cls in _derived(base):
        _probe_methods(cls, name)


def _derived(cls: type) -> Iterator[type]:
    yield cls
    one: type
    for one in cls.__subclasses__():
        yield from _derived(one)


def _probe_methods(cls: type, adapt_name: str) -> None:
    for name in PROBED:
        method = inspect.getattr_static(cls, name, None)
        is_method = inspect.isroutine(method) and not isinstance(method, (staticmethod, classmethod))
        if is_method and not hasattr(method, _MARK):
            setattr(cls, name, _probe(adapt_name, name, method))


def _probe(adapt_name: str, name: str, original: Callable[..., Any], observe: _Observe | None = None) -> Any:
    observe = observe or _observe

    @functools.wraps(original)
    def probe(self: Any, *given: Any, **named: Any) -> Any:
        return observe(adapt_name, name, original, self, given, named)

    setattr(probe, _MARK, True)
    return probe


def _look_at(adapt_name: str, env: Any, name: str) -> _Known | None:
    """An environment that is called for the first time, or a wrapper of a known one."""
    try:
        root = env.unwrapped
        known = _find(adapt_name, root)
        if known is None:
            if name != "reset":
                return None
            observed = _adapters[adapt_name](Echo(weakref.ref(env)))
            if observed is not None:
                weakref.finalize(root, observed.end).atexit = False
            known = _remember(adapt_name, root, observed)
        return known if root is env else _remember(adapt_name, env, known.observed)
    except Exception as error:  # noqa: BLE001  whatever the environment's own attributes raise
        session.failed(error)
        return None


def _find(adapt_name: str, env: Any) -> _Known | None:
    known = _known.get((adapt_name, id(env)))
    return None if known is None or known.env() is not env else known


def _remember(adapt_name: str, env: Any, observed: Observed | None) -> _Known:
    key = adapt_name, id(env)
    known = _known[key] = _Known(weakref.ref(env, lambda _: _known.pop(key, None)), observed)
    return known


def _forget(observed: Observed) -> None:
    """A closed environment that is reset again is a new one."""
    observed.end()
    for key in [key for key, known in list(_known.items()) if known.observed is observed]:
        _known.pop(key, None)


def _forked() -> None:
    """What a child steps is its own: it is known from the child's first reset on."""
    _known.clear()


_thread = _Thread()
_observe = _Observe()
_adapters: dict[str, Adapt] = {}
_known: dict[tuple[str, int], _Known] = {}
"""By kind and id: those that the program calls, and what they are without their wrappers."""
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)
