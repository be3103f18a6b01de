"""How much to prefer a sort of question with its answer, where a scene allows it.

With these, all sorts and all answers of a sort come equally often over the training scenes of a world. They are what
`data.shapes.questions.balancing_weights(world, 30_000)` gives, divided by the largest and rounded; whoever changes what
can be asked, or how scenes are drawn, has to find them again.
"""

ANSWER_WEIGHTS: dict[str, dict[str, dict[str, float]]] = {
    "shapes64": {
        "Exists": {"no": 0.1721, "yes": 0.1721},
        "HowMany": {"four": 0.2512, "one": 0.1513, "three": 0.2888, "two": 0.1785, "zero": 0.0688},
        "LeftOrRight": {"left": 0.6958, "right": 0.7037},
        "Related": {"no": 0.9454, "yes": 0.9466},
        "TopOrBottom": {"bottom": 0.6825, "top": 0.7174},
        "WhatBackground": {"black": 0.3451, "gray": 0.3501, "white": 0.3375},
        "WhatColour": {"blue": 0.4341, "cyan": 1.0, "green": 0.439, "magenta": 0.4343, "red": 0.4321, "yellow": 0.7859},
        "WhatShape": {
            "circle": 0.5248,
            "cross": 0.6207,
            "diamond": 0.5643,
            "ring": 0.4929,
            "square": 0.4549,
            "triangle": 0.5643,
        },
        "WhatSize": {"large": 0.6265, "small": 0.5681},
    },
    "tints64": {
        "Exists": {"no": 0.1291, "yes": 0.1291},
        "HowMany": {"four": 0.1862, "one": 0.1141, "three": 0.2223, "two": 0.1394, "zero": 0.0516},
        "LeftOrRight": {"left": 0.5238, "right": 0.5288},
        "Related": {"no": 0.7034, "yes": 0.703},
        "TopOrBottom": {"bottom": 0.5151, "top": 0.5343},
        "WhatBackground": {"black": 0.2605, "gray": 0.2625, "white": 0.2517},
        "WhatColour": {
            "azure": 0.3186,
            "blue": 0.3818,
            "cyan": 1.0,
            "green": 0.3853,
            "lime": 0.3129,
            "magenta": 0.3811,
            "mint": 0.3208,
            "orange": 0.3068,
            "red": 0.3684,
            "rose": 0.3266,
            "violet": 0.3119,
            "yellow": 0.7492,
        },
        "WhatShape": {
            "circle": 0.3536,
            "cross": 0.4215,
            "diamond": 0.3833,
            "ring": 0.3728,
            "square": 0.339,
            "triangle": 0.3934,
        },
        "WhatSize": {"large": 0.4706, "small": 0.4204},
    },
    "shapes32": {
        "Exists": {"no": 0.1133, "yes": 0.1133},
        "HowMany": {"one": 0.1081, "two": 0.1659, "zero": 0.0755},
        "LeftOrRight": {"left": 0.4222, "right": 0.424},
        "Related": {"no": 0.9978, "yes": 1.0},
        "TopOrBottom": {"bottom": 0.3736, "top": 0.4539},
        "WhatBackground": {"black": 0.2298, "gray": 0.2261, "white": 0.224},
        "WhatColour": {
            "blue": 0.2578,
            "cyan": 0.6734,
            "green": 0.2622,
            "magenta": 0.1908,
            "red": 0.2549,
            "yellow": 0.3634,
        },
        "WhatShape": {"circle": 0.2872, "cross": 0.3221, "square": 0.2469, "triangle": 0.2928},
        "WhatSize": {"large": 0.3307, "small": 0.2649},
    },
}
