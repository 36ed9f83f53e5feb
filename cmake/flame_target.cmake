# One place for the flags that every target of ours shares.
add_library(flame_flags INTERFACE)
set(flags -Wall -Wextra -Werror -march=${FLAME_ARCH} -fno-math-errno -fno-trapping-math)
list(JOIN flags "," host_flags)
target_compile_options(flame_flags INTERFACE "$<$<COMPILE_LANGUAGE:CXX>:${flags}>"
  "$<$<COMPILE_LANGUAGE:CUDA>:--expt-relaxed-constexpr;-Werror=all-warnings;-Xcompiler=${host_flags},-fopenmp>")
if(FLAME_SANITIZE)
  target_compile_options(flame_flags INTERFACE -fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer)
  target_link_options(flame_flags INTERFACE -fsanitize=address,undefined)
endif()

# flame_target(NAME sources... LINK libraries...): a static library whose headers are included from the repository root.
# *_cuda.cpp and *_cuda.cu are left out where there is no CUDA; other .cu files hold kernels for both devices and are
# plain C++ there.
function(flame_target name)
  cmake_parse_arguments(arg "" "" "LINK" ${ARGN})
  set(sources ${arg_UNPARSED_ARGUMENTS})
  if(NOT FLAME_WITH_CUDA)
    list(FILTER sources EXCLUDE REGEX "_cuda\\.(cpp|cu)$")
  endif()
  if(NOT FLAME_WITH_CUDA OR FLAME_CUDA_EMULATED)
    set(kernels ${sources})
    list(FILTER kernels INCLUDE REGEX "\\.cu$")
    set_source_files_properties(${kernels} PROPERTIES LANGUAGE CXX
      COMPILE_OPTIONS "-x;c++$<$<BOOL:${FLAME_CUDA_EMULATED}>:;-D__CUDACC__;-Wno-unknown-pragmas>")
  endif()
  add_library(${name} STATIC ${sources})
  target_compile_features(${name} PUBLIC cxx_std_20)
  if(FLAME_CUDA_EMULATED)  # before FLAME's own folder: a header of the emulator's stands in for one of FLAME's
    target_include_directories(${name} PUBLIC $<BUILD_INTERFACE:${CMAKE_SOURCE_DIR}/tests/cuda_emulator>)
  endif()
  target_include_directories(${name} PUBLIC
    $<BUILD_INTERFACE:${CMAKE_SOURCE_DIR}> $<INSTALL_INTERFACE:${CMAKE_INSTALL_INCLUDEDIR}>)
  target_link_libraries(${name} PUBLIC ${arg_LINK} PRIVATE $<BUILD_INTERFACE:flame_flags>)
endfunction()
