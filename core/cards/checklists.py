"""Reporting guidelines: their items in a few words, and the function that answers each from a run's record.

References:
    CLAIM 2024: Tejani et al. 2024, doi:10.1148/ryai.240300.
    TRIPOD+AI: Collins et al. 2024, doi:10.1136/bmj-2023-078378.
"""

from core.cards import answers
from core.cards.items import Guideline, Item
from core.cards.subject import encoder_training_data, limits
from core.registry import Registry

_M, _R, _D, _O = "Methods", "Results", "Discussion", "Open science"
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
    Item("22", _M, "Description of the model", lambda subject: subject.shape),
    Item("23", _M, "Software and versions", answers.software),
    Item("24", _M, "Starting parameters", encoder_training_data),
    Item("25", _M, "Training", answers.training),
    Item("26", _M, "How the final model was selected", answers.selection),
    Item("27", _M, "Ensembles", answers.ENSEMBLE),
    Item("28", _M, "Metrics", answers.metrics),
    Item("29", _M, "Measures of significance and uncertainty", answers.UNCERTAINTY),
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
    Item("40", "Discussion", "Limitations", lambda subject: " ".join(limits(subject))),
    Item("41", "Discussion", "Implications for practice and intended use", answers.USE),
    Item("42", "Other", "Protocol or further technical details", answers.details),
    Item("43", "Other", "Availability of software, model and data", answers.availability),
    Item("44", "Other", "Funding"),
)


TRIPOD = (
    Item("1", "Title", "Development or evaluation, population and outcome", answers.technology),
    Item("2", "Abstract", "Structured as in TRIPOD+AI for Abstracts"),
    Item("3a", "Introduction", "Healthcare context and existing models"),
    Item("3b", "Introduction", "Target population and intended use", answers.USE),
    Item("3c", "Introduction", "Known health inequalities"),
    Item("4", "Introduction", "Objectives", answers.aim),
    Item("5a", _M, "Sources of the data, and how representative they are", answers.source),
    Item("5b", _M, "Dates of the data"),
    Item("6a", _M, "Setting and centers"),
    Item("6b", _M, "Eligibility criteria"),
    Item("6c", _M, "Treatments received"),
    Item("7", _M, "Preparation and quality of the data", answers.preprocessing),
    Item("8a", _M, "Outcome and how it was assessed", answers.outcome),
    Item("8b", _M, "Qualifications of outcome assessors"),
    Item("8c", _M, "Blinding of the assessment of the outcome"),
    Item("9a", _M, "Choice of predictors", answers.PREDICTORS),
    Item("9b", _M, "Definition and measurement of predictors"),
    Item("9c", _M, "Qualifications of predictor assessors"),
    Item("10", _M, "Sample size", answers.sample_size),
    Item("11", _M, "Missing data", answers.missing),
    Item("12a", _M, "How data were used for development and evaluation", answers.partitions),
    Item("12b", _M, "How predictors were handled", answers.preprocessing),
    Item("12c", _M, "Type of model, building and internal validation", answers.training),
    Item("12d", _M, "Differences between clusters, such as hospitals"),
    Item("12e", _M, "Measures of performance", answers.metrics),
    Item("12f", _M, "Updating of the model", answers.UPDATING),
    Item("12g", _M, "How predictions are computed", lambda subject: subject.shape),
    Item("13", _M, "Class imbalance", answers.imbalance),
    Item("14", _M, "Fairness", answers.fairness),
    Item("15", _M, "Output and thresholds", answers.output),
    Item("16", _M, "Differences between training and test data", answers.internal),
    Item("17", _M, "Ethical approval"),
    Item("18a", _O, "Funding"),
    Item("18b", _O, "Conflicts of interest"),
    Item("18c", _O, "Protocol"),
    Item("18d", _O, "Registration"),
    Item("18e", _O, "Availability of data", answers.availability),
    Item("18f", _O, "Availability of code", answers.details),
    Item("19", "Patients", "Involvement of patients and the public"),
    Item("20a", _R, "Flow of participants", answers.numbers),
    Item("20b", _R, "Characteristics of participants", answers.people),
    Item("20c", _R, "Development compared with evaluation data"),
    Item("21", _R, "Participants and events in each analysis", answers.numbers),
    Item("22", _R, "Full model specification, for use by others", answers.specification),
    Item("23a", _R, "Performance with intervals, and in subgroups", answers.performance_by_group),
    Item("23b", _R, "Differences of performance between clusters"),
    Item("24", _R, "Result of updating", answers.UPDATING),
    Item("25", _D, "Interpretation, fairness and comparison with others"),
    Item("26", _D, "Limitations", lambda subject: " ".join(limits(subject))),
    Item("27a", _D, "Handling of poor or missing input", answers.poor_input),
    Item("27b", _D, "Expertise and actions required of users", answers.USE),
    Item("27c", _D, "Next steps of research"),
)

GUIDELINES: Registry[Guideline] = Registry("reporting guideline")
GUIDELINES.add(Guideline("claim-2024", "CLAIM 2024", "Tejani et al. 2024, doi:10.1148/ryai.240300", CLAIM))
GUIDELINES.add(Guideline("tripod-ai", "TRIPOD+AI", "Collins et al. 2024, doi:10.1136/bmj-2023-078378", TRIPOD))
