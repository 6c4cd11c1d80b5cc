"use strict";
(function () {
  var link = document.getElementById("download");
  var text = document.getElementById("undrift-data").textContent;
  link.href = URL.createObjectURL(new Blob([text], { type: "application/json" }));
  link.hidden = false;

  document.querySelectorAll("[data-copy]").forEach(function (button) {
    var code = button.closest(".command").querySelector("code");
    button.hidden = false;
    button.addEventListener("click", function () {
      var done = function () {
        button.textContent = "Copied";
        setTimeout(function () { button.textContent = "Copy"; }, 1500);
      };
      var select = function () {
        var range = document.createRange();
        range.selectNodeContents(code);
        getSelection().removeAllRanges();
        getSelection().addRange(range);
        if (document.execCommand("copy")) { done(); }
      };
      if (navigator.clipboard) { navigator.clipboard.writeText(code.textContent).then(done, select); }
      else { select(); }
    });
  });
})();
