# llama.cpp's `common` library serves its own programs; the engine uses none of it, and its binding cannot leave it out.
set(LLAMA_BUILD_COMMON OFF CACHE BOOL "not used here" FORCE)
