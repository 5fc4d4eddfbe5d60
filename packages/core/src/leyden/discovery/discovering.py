"""Which callbacks an environment attaches to a trainer: those the configuration names, then those of the factories."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from leyden.callback import Callback, Checkpoint
from leyden.configuration import CallbackTable, Configuration, read_configuration
from leyden.discovery.factories import TimeLimit, inside_a_factory, made_by
from leyden.discovery.found import STRICT, Broken, Discovered, LeftOut, in_one_line, report
from leyden.discovery.installed import (
    canonical,
    describe,
    installed_callbacks,
    installed_factories,
    name_and_version,
    unreadable_distributions,
)
from leyden.discovery.precedence import collides, replaces, supersedes
from leyden.discovery.switches import Filter, read_switch
from leyden.errors import MisconfigurationException, did_you_mean
from leyden.hooks.ordering import Placed
from leyden.rank_zero import rank_zero_info, rank_zero_only
from leyden.seed import isolate_rng

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

    from leyden.trainer import Trainer

__all__ = ["discover"]


def discover(
    trainer: Trainer,
    given: Sequence[Callback],
    *,
    enable_checkpointing: bool | None = None,
    enable_progress_bar: bool | None = None,
    enable_model_summary: bool | None = None,
) -> Discovered:
    """Return what the environment attaches to `trainer` beside the callbacks the user has `given`.

    Left out are: a `Checkpoint` where the user gave one or ``enable_checkpointing=False``; a callback whose `role` the
    user switched off (``enable_progress_bar=False``, ``enable_model_summary=False``) or filled with one of their own; a
    callback of which the user gave an instance of the same type and state key; one whose ``applies(trainer)`` is
    false; and what ``LEYDEN_CALLBACKS`` and the configuration leave out. What fails is reported and left out.

    Raises:
        MisconfigurationException: the configuration or ``LEYDEN_CALLBACKS`` has a mistake; or something is broken where
            the configuration says ``strict = true``.
    """
    switch = read_switch()
    if not switch.on:
        return Discovered(off_because="LEYDEN_CALLBACKS=off")
    if inside_a_factory():
        return Discovered(off_because="it was made by a factory of callbacks")
    switched_off = {
        role: f"Trainer(enable_{role}=False)"
        for role, enabled in (("progress_bar", enable_progress_bar), ("model_summary", enable_model_summary))
        if enabled is False
    }
    if enable_checkpointing is False:
        switched_off["checkpoint"] = "Trainer(enable_checkpointing=False)"
    configuration = read_configuration()
    # What factories import may draw random numbers, as rich does, and the training is to be the same without them.
    with isolate_rng(), TimeLimit(configuration.timeout_s) as within:
        search = _Search(trainer, given, switched_off, configuration, switch.filter, within)
        search.check_settings()
        for table in configuration.callbacks:
            search.take_table(table)
        for entry_point in installed_factories():
            search.ask_factory(entry_point)
    search.check_filters()
    search.result.broken += unreadable_distributions()
    _report_broken(search.result)
    return search.result


def _report_broken(result: Discovered) -> None:
    if result.strict and result.broken:
        raise MisconfigurationException("\n".join([*map(str, result.broken), STRICT]))
    for broken in result.broken:
        report(str(broken))


class _Search:
    """One discovery, as far as it has come."""

    def __init__(
        self,
        trainer: Trainer,
        given: Sequence[Callback],
        switched_off: dict[str, str],
        configuration: Configuration,
        switch: Filter | None,
        within: TimeLimit,
    ) -> None:
        self._trainer, self._given, self._switched_off = trainer, given, switched_off
        self.configuration, self.result = configuration, Discovered(strict=configuration.strict)
        self._switch, self._within = switch, within
        self._filters = [] if switch is None else [switch]  # of factories
        if configuration.allow is not None:
            said_by = f"allow ({configuration.where('discovery', 'allow')})"
            self._filters.append(Filter(configuration.allow, True, said_by))
        if configuration.deny:
            said_by = f"deny ({configuration.where('discovery', 'deny')})"
            self._filters.append(Filter(configuration.deny, False, said_by))
        self._tabled: dict[str, str] = {}  # why a factory's callback of this class is left out

    def check_settings(self) -> None:
        """Refuse settings for a factory that is not installed."""
        names = [entry_point.name for entry_point in installed_factories()]
        for name in self.configuration.settings:
            if name not in names:
                raise self.configuration.error(
                    ("discovery", "settings", name),
                    f"[discovery.settings.{name}]: no factory installed here is called {name!r}; there are "
                    f"{', '.join(names) or 'none'}.{did_you_mean(name, names)}",
                )

    def check_filters(self) -> None:
        """Warn of names in switches that nothing here has, now that it is known who brings what."""
        if not self._filters:
            return
        from leyden.discovery.configured import names_of_callbacks

        declared = [*installed_factories(), *installed_callbacks()]
        known = {name for one in declared for name in (one.name, name_and_version(one.dist)[0])}
        known |= {type(one.callback).__name__ for one in self.result.placed}
        known |= {one.callback for one in self.result.left_out}
        for one in self._filters:
            one.warn_of_unknown([*sorted(known), *names_of_callbacks()])

    # -- the configuration's own ------------------------------------------------------------------------------------

    def take_table(self, table: CallbackTable) -> None:
        """Place the callback of a table, or say why not."""
        from leyden.discovery.configured import make, named, names_of_callbacks

        if not table.enabled and table.name in names_of_callbacks():
            self._leave_out_tabled(table, f"enabled = false ({table.where})")
            return
        found = named(table, self.configuration)
        if table.rank_zero_only and rank_zero_only.rank != 0:
            self._leave_out_tabled(table, f"rank_zero_only ({table.where}), and this is rank {rank_zero_only.rank}")
            return
        self._tabled[table.name] = f"[callbacks.{table.name}] takes its place ({table.where})"
        factories = [one.name for one in installed_factories() if name_and_version(one.dist)[0] == found.distribution]
        against = self._switch and self._switch.reason_against(table.name, found.distribution, *factories)
        if against:
            self.result.left_out.append(LeftOut(table.name, str(found), against))
            return

        def offer() -> tuple[Callback, str | None]:
            callback_class = found.load()
            if not (isinstance(callback_class, type) and issubclass(callback_class, Callback)):
                raise TypeError(f"{callback_class!r:.80} is no class of callbacks")
            callback = make(callback_class, table, self.configuration)
            return callback, self._reason_against(callback, table)

        try:
            callback, reason = self._within(offer, f"leyden: {table.name}")
        except MisconfigurationException:
            raise
        except Exception as error:
            self.result.broken.append(
                Broken(found.distribution, found.version, f"[callbacks.{table.name}]", table.where, in_one_line(error))
            )
            return
        if reason is not None:
            self.result.left_out.append(LeftOut(table.name, str(found), reason))
            return
        self.result.placed.append(
            Placed(callback, source="configured", distribution=str(found), where=table.where, when=table.when)
        )

    def _leave_out_tabled(self, table: CallbackTable, reason: str) -> None:
        self._tabled[table.name] = reason
        self.result.left_out.append(LeftOut(table.name, "the configuration", reason))

    # -- what factories bring ---------------------------------------------------------------------------------------

    def ask_factory(self, entry_point: EntryPoint) -> None:
        """Place what a factory brings, or say why not."""
        names = (entry_point.name, name_and_version(entry_point.dist)[0])
        if against := self._reason_not_to_ask(*names):
            self.result.left_out.append(LeftOut("all", describe(entry_point), against))
            return
        settings = self.configuration.settings.get(entry_point.name)

        def offer() -> list[tuple[Callback, str | None]]:
            offered: list[tuple[Callback, str | None]] = []
            for callback in made_by(entry_point, settings):
                own = [one for one, reason in offered if reason is None]
                offered.append((callback, self._reason_against_offered(callback, names, own)))
            return offered

        try:
            offered = self._within(offer, f"leyden: {entry_point.name}")
        except Exception as error:
            if settings is not None and isinstance(error, MisconfigurationException):
                key = ("discovery", "settings", entry_point.name)
                raise self.configuration.error(key, f"[discovery.settings.{entry_point.name}]: {error}") from error
            self.result.broken.append(_broken(entry_point, error))
            return
        for callback, reason in offered:
            self._note(callback, describe(entry_point), reason)

    def _note(self, callback: Callback, distribution: str, reason: str | None) -> None:
        if callback.role is not None:
            self.result.roles.add(callback.role)
        if isinstance(callback, Checkpoint):
            self.result.roles.add("checkpoint")
        if reason is None:
            self.result.placed.append(Placed(callback, source="discovered", distribution=distribution))
            return
        name = type(callback).__name__
        self.result.left_out.append(LeftOut(name, distribution, reason))
        for one in self.result.placed:
            if one.source == "discovered" and one.distribution != distribution and collides(one.callback, callback):
                rank_zero_info(f"The {name} of {distribution} is left out: the one of {one.distribution} stays.")

    def _reason_not_to_ask(self, *names: str) -> str | None:
        """Return why a factory is not called at all; one that may bring a callback named by a switch is."""
        for one in self._filters:
            if not one.only and one.holds(*names):
                return one.reason_against(*names)
            if one.only and not one.holds(*names) and not self._names_classes(one):
                return one.reason_against(*names)
        return None

    def _names_classes(self, only: Filter) -> bool:
        """Whether a switch names more than factories and distributions, which can only be classes."""
        known = set()
        for entry_point in installed_factories():
            known |= {canonical(entry_point.name), canonical(name_and_version(entry_point.dist)[0])}
        return any(canonical(name) not in known for name in only.names)

    def _reason_against_offered(self, callback: Callback, names: tuple[str, str], own: list[Callback]) -> str | None:
        name = type(callback).__name__
        for one in self._filters:
            if against := one.reason_against(name, *names):
                return against
        if name in self._tabled:
            return self._tabled[name]
        for other in own:
            if replaces(other, callback):
                return f"its factory brings a {type(other).__name__} already"
        return self._reason_against(callback, None)

    # -- both -------------------------------------------------------------------------------------------------------

    def _reason_against(self, callback: Callback, table: CallbackTable | None) -> str | None:
        """Return why a callback is not attached, None where it is; `table` is that of one the configuration names."""
        slot = "checkpoint" if isinstance(callback, Checkpoint) else callback.role
        if slot in self._switched_off:
            return self._switched_off[slot]
        superseded = replaces if table is None else supersedes
        for given in self._given:
            if superseded(given, callback):
                return f"the user gave a {type(given).__name__}"
        for placed in self.result.placed:
            by = placed.callback
            if placed.source == "configured":
                if table is None and supersedes(by, callback):
                    return f"the {type(by).__name__} of {placed.where} takes its place"
            elif replaces(by, callback):
                return f"the {type(by).__name__} of {placed.distribution} stays"
        if not callback.applies(self._trainer):
            return "it has no use here (its applies(trainer) is false)"
        return None


def _broken(entry_point: EntryPoint, error: BaseException) -> Broken:
    distribution, version = name_and_version(entry_point.dist)
    return Broken(distribution, version, entry_point.name, entry_point.value, in_one_line(error))
