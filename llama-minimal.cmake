# Read while llama.cpp is configured (CMAKE_PROJECT_llama.cpp_INCLUDE, see Makefile and docs/install.md).
# llama-cpp-python forces llama.cpp's library for command-line tools on; llmc uses none of it, and it
# is a large part of what there is to compile.  A plain variable wins over the cache entry it sets.
set(LLAMA_BUILD_COMMON OFF)
