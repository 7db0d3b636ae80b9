"""The items of CLAIM 2024, in few words, and what a run's record answers.

Reference: Tejani et al. 2024, Checklist for Artificial Intelligence in Medical Imaging (CLAIM): 2024 Update,
doi:10.1148/ryai.240300.
"""

from __future__ import annotations

from core.cards import answers
from core.cards.items import Item

_M, _R = "Methods", "Results"
CLAIM = (
    Item("1", "Title", "Study of AI methodology, with the kind of technology", answers.technology),
    Item("2", "Abstract", "Structured summary"),
    Item("3", "Introduction", "Background, intended use and role"),
    Item("4", "Introduction", "Aims, objectives, hypotheses", answers.aim),
    Item("5", _M, "Prospective or retrospective", answers.retrospective),
    Item("6", _M, "Goal of the study", answers.aim),
    Item("7", _M, "Data sources", answers.source),
    Item("8", _M, "Inclusion and exclusion criteria"),
    Item("9", _M, "Preprocessing of the data", answers.preprocessing),
    Item("10", _M, "Selection of subsets of the data", answers.subset),
    Item("11", _M, "De-identification"),
    Item("12", _M, "Missing data", answers.missing),
    Item("13", _M, "Image acquisition protocol"),
    Item("14", _M, "Definition of the reference standard"),
    Item("15", _M, "Reason for that reference standard"),
    Item("16", _M, "Source of the reference annotations"),
    Item("17", _M, "Annotation of the test set"),
    Item("18", _M, "Variability between and within annotators"),
    Item("19", _M, "How data were assigned to partitions", answers.partitions),
    Item("20", _M, "Level at which partitions are disjoint", answers.level),
    Item("21", _M, "Intended sample size", answers.sample_size),
    Item("22", _M, "Description of the model", answers.model),
    Item("23", _M, "Software and versions", answers.software),
    Item("24", _M, "Starting parameters", answers.start),
    Item("25", _M, "Training", answers.training),
    Item("26", _M, "How the final model was selected", answers.selection),
    Item("27", _M, "Ensembles", answers.ensemble),
    Item("28", _M, "Metrics", answers.metrics),
    Item("29", _M, "Measures of significance and uncertainty", answers.uncertainty),
    Item("30", _M, "Robustness or sensitivity analysis"),
    Item("31", _M, "Explainability, and how it was checked", answers.explainability),
    Item("32", _M, "Evaluation on internal data", answers.internal),
    Item("33", _M, "Testing on external data", answers.external),
    Item("34", _M, "Registration of a clinical trial"),
    Item("35", _R, "Numbers included and excluded", answers.numbers),
    Item("36", _R, "Demographic and clinical characteristics by partition", answers.people),
    Item("37", _R, "Performance, by partition and subgroup", answers.performance_by_group),
    Item("38", _R, "Diagnostic performance and its precision", answers.diagnostic),
    Item("39", _R, "Failure analysis"),
    Item("40", "Discussion", "Limitations", answers.limitations),
    Item("41", "Discussion", "Implications for practice and intended use", answers.use),
    Item("42", "Other", "Protocol or further technical details", answers.details),
    Item("43", "Other", "Availability of software, model and data", answers.availability),
    Item("44", "Other", "Funding"),
)
