"""What every remedy shares: metadata, what it proposes, how it is applied."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from gradwatch.anatomy import ActivationSite, Anatomy
from gradwatch.findings import Finding
from gradwatch.history import History
from gradwatch.recipe import Recipe
from gradwatch.recommendations import Option, Recommendation, Rejection, Risk
from gradwatch.settings import Settings
from gradwatch.structure import Structure
from gradwatch.treatment import ModelEditor


@dataclass(frozen=True, slots=True)
class Case:
    """One finding and all that is known around it. Plain data.

    Attributes:
        finding: The finding to answer.
        findings: All standing findings, `finding` among them.
        structure: How the gradient flows.
        anatomy: What code can change, and how the model is trained.
        history: What was measured.
        settings: The limits.
    """

    finding: Finding
    findings: tuple[Finding, ...] = ()
    structure: Structure = field(default_factory=Structure)
    anatomy: Anatomy = field(default_factory=Anatomy)
    history: History = field(default_factory=History)
    settings: Settings = field(default_factory=Settings)

    @property
    def code(self) -> str:
        """Code of the finding."""
        return self.finding.code


class Remedy(ABC):
    """One remedy. It holds no state: the same case gives the same answer.

    The class docstring becomes the page of `docs/remedies/` and of `gradwatch remedies
    NAME`: one line that says what it does, then the headings `When it applies:`, `When
    it never does:`, `What apply does:`, `Record:` (how it fared, measured), `Risk:`,
    `References:`.

    Attributes:
        name: Verb and object in kebab case; also the file's and page's name.
        summary: One line for the catalogue.
        risk: What applying it may cost at worst.
        for_rules: Codes of rules that it may answer though they do not name it: for
            plug-ins, which our rules cannot know.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    risk: ClassVar[Risk]
    for_rules: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def propose(self, case: Case) -> Iterable[Recommendation | Rejection]:
        """Say what it would do about a finding, best variant first, or why not.

        It is asked for every standing finding whose rule names it, and for every other
        remedy the recommender wants a word on. At least one answer.
        """

    def apply(  # noqa: B027 - advice changes nothing
        self, editor: ModelEditor, recommendation: Recommendation
    ) -> None:
        """Edit the deep copy in `editor`. By default the model stays as it is."""

    def recipe(self, recommendation: Recommendation) -> Recipe:
        """Return what of the training changes. By default nothing."""
        return Recipe()

    def recommend(
        self,
        case: Case,
        title: str,
        why: str,
        code: str,
        *,
        layers: Iterable[str] = (),
        risk: Risk | None = None,
        sites: Iterable[ActivationSite] = (),
        options: Mapping[str, Option] | None = None,
        caution: str = "",
        source: str = "",
        record: str = "",
        can_apply: bool = True,
        where: str = "",
    ) -> Recommendation:
        """Return a recommendation with this remedy's name, answering `case`."""
        return Recommendation(
            remedy=self.name,
            title=title,
            answers=(case.code,),
            layers=tuple(layers),
            why=why,
            code=code,
            risk=self.risk if risk is None else risk,
            sites=tuple(sites),
            options=dict(options or {}),
            caution=caution,
            source=source,
            record=record,
            can_apply=can_apply,
            where=where,
        )

    def reject(self, case: Case, reason: str) -> Rejection:
        """Return why this remedy is not for `case`."""
        return Rejection(self.name, reason, (case.code,))
