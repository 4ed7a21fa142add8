"""Steps that any method can take: `before` its function (deltas -> deltas) and `after` it (merged, deltas -> merged).

A method's YAML lists them by name: after: [svc], or after: [{svc: {floor: 0.5}}]; specification/steps.py reads that.
"""
