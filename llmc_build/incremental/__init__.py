"""Building what a change can reach, and nothing else. World.

`partial` reads the documents that changed, `cone` chooses the targets to be looked at, `taking` and
`watching` write down after a build what the next one starts from. The form of that, and whether it still
holds, is `snapshot`'s.
"""
