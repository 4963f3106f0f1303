"""What the last build left, in a form in which the next one decides in milliseconds what there is to do.
World.

`form` is the file, `stamps` what tells that a file is unchanged, `survey` holds a snapshot against the
world. Taking one after a build is `taking`; building only what a survey found changed is `partial`. Nothing
is imported here, and little in these modules: a build with nothing to do imports nothing else.
"""
