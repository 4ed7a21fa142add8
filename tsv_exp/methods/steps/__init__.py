"""Steps that any method can take: `before` its function (deltas -> deltas) and `after` it (merged, deltas -> merged).

A step of `before` can also change the factors of adapters (factors -> factors). A method's YAML lists steps by name:
after: [svc], or after: [{svc: {floor: 0.5}}]; specification/steps.py reads that.
"""
