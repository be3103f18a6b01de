"""How much to prefer a sort of question with its answer, where a scene allows it.

With these, all sorts and all answers of a sort come equally often over the training scenes of a world. They are what
`data.shapes.questions.balancing_weights(world, 30_000)` gives, divided by the largest and rounded; whoever changes what
can be asked, or how scenes are drawn, has to find them again.
"""

ANSWER_WEIGHTS: dict[str, dict[str, dict[str, float]]] = {
    "shapes64": {
        "Exists": {"no": 0.2123, "yes": 0.2123},
        "HowMany": {"four": 0.3605, "one": 0.1463, "three": 0.3534, "two": 0.2056, "zero": 0.0849},
        "Related": {"no": 0.8792, "yes": 0.8804},
        "WhatBackground": {"black": 0.4257, "gray": 0.4293, "white": 0.4187},
        "WhatColour": {"blue": 0.414, "cyan": 1.0, "green": 0.4195, "magenta": 0.4151, "red": 0.4123, "yellow": 0.7573},
        "WhatShape": {
            "circle": 0.5003,
            "cross": 0.6022,
            "diamond": 0.5451,
            "ring": 0.4746,
            "square": 0.4307,
            "triangle": 0.5485,
        },
        "WhatSize": {"large": 0.6098, "small": 0.5404},
    },
    "shapes32": {
        "Exists": {"no": 0.1243, "yes": 0.1243},
        "HowMany": {"one": 0.1073, "two": 0.2032, "zero": 0.0829},
        "Related": {"no": 0.9974, "yes": 1.0},
        "WhatBackground": {"black": 0.2513, "gray": 0.2481, "white": 0.2464},
        "WhatColour": {
            "blue": 0.2529,
            "cyan": 0.7339,
            "green": 0.2607,
            "magenta": 0.1869,
            "red": 0.2504,
            "yellow": 0.3579,
        },
        "WhatShape": {"circle": 0.2813, "cross": 0.324, "square": 0.2371, "triangle": 0.3008},
        "WhatSize": {"large": 0.3363, "small": 0.2571},
    },
}
