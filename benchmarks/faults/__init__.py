"""A bench of labelled faults: networks that are sick or healthy by their outcome.

`python -m benchmarks.faults.label` trains every set-up without gradwatch and labels it;
`python -m benchmarks.faults.score` runs gradwatch on them and scores its verdicts.
"""
