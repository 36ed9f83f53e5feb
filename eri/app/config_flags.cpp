#include "eri/app/config_flags.h"

#include "flame/core/error.h"

namespace eri {

CLI::Option* ConfigFlags::add_to(CLI::App& command, const ConfigKey& key, const char* help) {
  const std::string flags = std::string("--") + key.name + (find_key("model") == &key ? ",--model" : "");
  const std::string by_default = value_of(TrainConfig(), key);
  const bool is_switch = std::holds_alternative<bool TrainConfig::*>(key.member) ||
                         std::holds_alternative<std::optional<bool> TrainConfig::*>(key.member);
  auto* option = command.add_option_function<std::string>(
      flags, [this, &key](const std::string& value) { given_.emplace_back(&key, value); },
      (help ? help : key.help) + (is_switch ? " [" + by_default + " where it is not given]" : ""));
  option->group(key.group)->type_name(type_name(key))->default_str(by_default)->run_callback_for_default(false);
  if (is_switch) option->expected(0, 1)->default_str("true");
  return option;
}

void ConfigFlags::apply(TrainConfig& config) const {
  for (const auto& [key, value] : given_) {
    if (value.empty() && key == find_key("resume"))
      flame::fail(
          "--resume: expected a ...-state folder, got nothing (an empty variable?); leave it out to start anew");
    set_value(config, *key, value);
  }
}

}  // namespace eri
