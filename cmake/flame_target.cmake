# One place for the flags that every target of ours shares.
add_library(flame_flags INTERFACE)
target_compile_options(flame_flags INTERFACE -Wall -Wextra -Werror -march=${FLAME_ARCH} -fno-math-errno -fno-trapping-math)
if(FLAME_SANITIZE)
  target_compile_options(flame_flags INTERFACE -fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer)
  target_link_options(flame_flags INTERFACE -fsanitize=address,undefined)
endif()

# flame_target(NAME sources... LINK libraries...): a static library whose headers are included from the repository root.
function(flame_target name)
  cmake_parse_arguments(arg "" "" "LINK" ${ARGN})
  add_library(${name} STATIC ${arg_UNPARSED_ARGUMENTS})
  target_compile_features(${name} PUBLIC cxx_std_20)
  target_include_directories(${name} PUBLIC
    $<BUILD_INTERFACE:${CMAKE_SOURCE_DIR}> $<INSTALL_INTERFACE:${CMAKE_INSTALL_INCLUDEDIR}>)
  target_link_libraries(${name} PUBLIC ${arg_LINK} PRIVATE $<BUILD_INTERFACE:flame_flags>)
endfunction()
