"""One sentence for the first visit of each view: what can be done there.

Belongs here: the sentences. static/first_visit.js shows one until it is dismissed, once per view and browser.
"""

from __future__ import annotations

HINTS = {  # template -> sentence
    "home.html": "Open a set to see how its images go through the model; the newest set of a model is the first.",
    "overview.html": "Choose a block of the figure to open a cluster, or a band to see the examples that went that way.",
    "cluster.html": "Lift, further down, lists the classes and attributes that are more frequent in this cluster than elsewhere.",
    "paths.html": "Choose a number of examples to open its path, or a numbered circle to open a cluster.",
    "path.html": "Lift lists what is more frequent on this path; similar paths, at the end, differ from it in one layer.",
    "example.html": "Choose a numbered circle to see the examples that the model treated alike in that layer.",
    "ask.html": "Combine filters as you like: the address of the page is the query, so a link to it can be shared.",
    "map.html": "Hold Shift and draw around examples to select them; all layers then show where these lie.",
    "alike.html": "Move the slider from early layers, which look alike, to late ones, which are decided alike.",
    "find.html": "Each list is ranked: look at its first examples, then export what you want to correct.",
    "image.html": "Drop an image anywhere on this page, paste it, or choose a file: it is explained and not stored.",
    "compare.html": "Choose a set before and a set after: the first table says which is better, and in what.",
    "monitoring.html": "Open a series to see when new images began to differ from those of the set.",
    "series.html": "Open a window to see its images and what changed in it.",
    "window.html": "What grew lists the clusters and paths that are more frequent in this window than in the set.",
}
