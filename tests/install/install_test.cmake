# Installs FLAME from BUILD_DIR, then builds and runs the README's example against it, knowing only the installed tree.
cmake_policy(VERSION 3.25)
set(work ${BUILD_DIR}/install-test)
file(REMOVE_RECURSE ${work})

function(run)
  execute_process(COMMAND ${ARGV} COMMAND_ERROR_IS_FATAL ANY OUTPUT_VARIABLE output)
  message("${output}")
  set(output "${output}" PARENT_SCOPE)
endfunction()

run(${CMAKE_COMMAND} --install ${BUILD_DIR} --prefix ${work}/prefix --component flame)
run(${CMAKE_COMMAND} -G Ninja -S ${SOURCE_DIR}/examples/flame -B ${work}/build
  -D CMAKE_BUILD_TYPE=Release -D CMAKE_PREFIX_PATH=${work}/prefix -D CMAKE_FIND_USE_PACKAGE_REGISTRY=OFF)
run(${CMAKE_COMMAND} --build ${work}/build)
run(${work}/build/tensors)

# [[1, 2], [3, 4]] squared, and the gradient 2x.
foreach(expected "7, 10, 15, 22" "2, 4, 6, 8")
  string(FIND "${output}" "${expected}" at)
  if(at EQUAL -1)
    message(FATAL_ERROR "expected ${expected} in the example's output")
  endif()
endforeach()
if(NOT output MATCHES "step 1000  loss ([0-9.e-]+)" OR CMAKE_MATCH_1 GREATER 0.001)
  message(FATAL_ERROR "expected a last loss below 0.001, got ${CMAKE_MATCH_1}")
endif()

file(READ ${SOURCE_DIR}/README.md readme)
file(READ ${SOURCE_DIR}/examples/flame/tensors.cpp example)
string(FIND "${readme}" "```cpp\n${example}```" at)
if(at EQUAL -1)
  message(FATAL_ERROR "README.md does not show examples/flame/tensors.cpp as it is")
endif()
