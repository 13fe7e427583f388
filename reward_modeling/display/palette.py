"""The colours of pages and plots: {name: (in the light, in the dark)}. A page has them as CSS variables."""

PALETTE = {
    "ink": ("#1b1f24", "#e6e9ee"),
    "muted": ("#59626e", "#a4adb9"),
    "line": ("#d5dae0", "#3a424d"),
    "bar": ("#0072b2", "#4aa8dd"),
    "strong": ("#004b76", "#9fd6f7"),
    "accent": ("#b84e00", "#f0a05a"),
    "page": ("#ffffff", "#14171c"),
    "card": ("#f4f6f8", "#1e232a"),
    "warn": ("#fff4e0", "#33270f"),
    # of models that are compared, in their order
    "model0": ("#0072b2", "#4aa8dd"),
    "model1": ("#b84e00", "#f0a05a"),
    "model2": ("#008060", "#3cc99b"),
    "model3": ("#9b4f96", "#cf8fcb"),
    "model4": ("#96700a", "#e0b840"),
    "model5": ("#59626e", "#a4adb9"),
    "model6": ("#c2185b", "#f06aa0"),
    "model7": ("#00838f", "#40c4d0"),
}
