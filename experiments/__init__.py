"""Programs that measure, draw and compare; none of them is installed.

`nox -s demo`, `peers`, `bench`, `network`, `figures` and `evidence` run them in environments of
their own. By hand, in the root of a checkout that is installed with `pip install -e .`:
`python -m experiments.demo.digits`. They import each other by their whole names.
"""
